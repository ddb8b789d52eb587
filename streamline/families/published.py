"""The networks of the published models, described in full, so that they can be built without a download.

Traces and memory figures need a network's true shape but not its weights. Everything a configuration file
on the hub says about that shape is written out here. Networks are built wherever the caller has set torch
to build them: `torch.device("meta")` or fake tensors make the largest of them in seconds without memory.

    with torch.device("meta"):
        unet = published.build("svd", "unet")
"""

from __future__ import annotations

import diffusers
import torch
import transformers

from ..errors import ModelError

SVD_UNET = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "sample_size": 96,
    "num_frames": 14,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
    "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "num_attention_heads": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
}

SVD_VAE = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "sample_size": 768,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}

SVD_IMAGE_ENCODER = {
    "_class_name": "CLIPVisionModelWithProjection",
    "image_size": 224,
    "patch_size": 14,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}

# Stable Diffusion 1.5's UNet with the motion modules of adapter v1.5-3 already in place, as
# UNetMotionModel.from_unet2d joins them. attention_head_dim 8 is that UNet's number of heads.
ANIMATEDIFF_UNET = {
    "_class_name": "UNetMotionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlockMotion",) * 3 + ("DownBlockMotion",),
    "up_block_types": ("UpBlockMotion",) + ("CrossAttnUpBlockMotion",) * 3,
    "layers_per_block": 2,
    "num_attention_heads": 8,
    "cross_attention_dim": 768,
    "norm_num_groups": 32,
    "motion_num_attention_heads": 8,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": False,
}

ANIMATEDIFF_VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}

ANIMATEDIFF_TEXT_ENCODER = {
    "_class_name": "CLIPTextModel",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}

# The adapter itself: its pipeline keeps a second copy of the motion modules beside the UNet's.
ANIMATEDIFF_MOTION_ADAPTER = {
    "_class_name": "MotionAdapter",
    "block_out_channels": (320, 640, 1280, 1280),
    "motion_layers_per_block": 2,
    "motion_num_attention_heads": 8,
    "motion_norm_num_groups": 32,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": False,
}

MODELS = {
    "svd": {"unet": SVD_UNET, "vae": SVD_VAE, "image_encoder": SVD_IMAGE_ENCODER},
    "svd-xt": {"unet": SVD_UNET | {"num_frames": 25}, "vae": SVD_VAE, "image_encoder": SVD_IMAGE_ENCODER},
    "animatediff": {
        "unet": ANIMATEDIFF_UNET,
        "vae": ANIMATEDIFF_VAE,
        "text_encoder": ANIMATEDIFF_TEXT_ENCODER,
        "motion_adapter": ANIMATEDIFF_MOTION_ADAPTER,
    },
    "animatediff-v2": {  # motion adapter v1.5-2, which also moves the mid block
        "unet": ANIMATEDIFF_UNET | {"use_motion_mid_block": True},
        "vae": ANIMATEDIFF_VAE,
        "text_encoder": ANIMATEDIFF_TEXT_ENCODER,
        "motion_adapter": ANIMATEDIFF_MOTION_ADAPTER | {"use_motion_mid_block": True},
    },
}


def config(model: str, part: str) -> dict:
    """The configuration of one part of a published model; raises ModelError for unknown names."""
    if part not in parts(model):
        raise ModelError(f"{model} has no part {part!r}; it has {', '.join(MODELS[model])}.")
    return dict(MODELS[model][part])


def parts(model: str) -> tuple[str, ...]:
    """The parts of a published model; raises ModelError for unknown names."""
    if model not in MODELS:
        raise ModelError(f"There is no published model {model!r}; known are {', '.join(MODELS)}.")
    return tuple(MODELS[model])


def build(model: str, part: str) -> torch.nn.Module:
    """One part of a published model, untrained, in evaluation mode, on the device torch is set to build on.

    model: "svd", "svd-xt", "animatediff" or "animatediff-v2".
    part: "unet", "vae", or "image_encoder" (SVD), or "text_encoder" or "motion_adapter" (AnimateDiff).
    Raises ModelError for unknown names.
    """
    return assemble(config(model, part))


def assemble(configuration: dict) -> torch.nn.Module:
    """The network of a configuration, untrained, in evaluation mode, on the device torch is set to build on.

    configuration: as in this file, or as a loaded network has it, "_class_name" included.
    """
    fields = dict(configuration)
    name = fields.pop("_class_name")
    if hasattr(diffusers, name):
        network = getattr(diffusers, name).from_config(fields)
    else:
        network = getattr(transformers, name)
        network = network(network.config_class(**fields))
    _gather(network, torch.get_default_device())
    return network.eval()


def _gather(network: torch.nn.Module, device: torch.device) -> None:
    """Move the stray parameters: SVD's blend factors are made in a way ignoring the device that is set."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.device.type != device.type:
                setattr(module, name, torch.nn.Parameter(parameter.detach().to(device)))
