"""Stable Video Diffusion's models: where they come from, what suits them, and the shape of their networks in full."""

from __future__ import annotations

from ...store.finding import BUNDLED
from ..base import Model

UNET = {
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

VAE = {
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

IMAGE_ENCODER = {
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

SIZE = (576, 1024)  # height, width in pixels that it is trained on; its files say 768 x 768
SIZES = ((1024, 576), (768, 448), (512, 512), (576, 1024))
CONFIGS = {"unet": UNET, "vae": VAE, "image_encoder": IMAGE_ENCODER}
XT_CONFIGS = CONFIGS | {"unet": UNET | {"num_frames": 25}}

MODELS = (
    Model(
        "tiny-svd",
        "image-to-video",
        str(BUNDLED / "tiny-svd"),
        "moving shapes from a picture, made for trying things out on any machine",
        label="Tiny, from a picture",
        job=(("guidance_scale", 1.5),),
        sizes=((64, 64), (96, 64), (64, 96), (128, 128)),
        is_small=True,
    ),
    Model(
        "svd",
        "image-to-video",
        "stabilityai/stable-video-diffusion-img2vid",
        "Stable Video Diffusion, 14 frames of 576x1024",
        label="Stable Video Diffusion",
        job=(("height", SIZE[0]), ("width", SIZE[1]), ("num_frames", 14), ("fps", 7)),
        sizes=SIZES,
        configs=CONFIGS,
    ),
    Model(
        "svd-xt",
        "image-to-video",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        "Stable Video Diffusion XT, 25 frames of 576x1024",
        label="Stable Video Diffusion XT",
        job=(("height", SIZE[0]), ("width", SIZE[1]), ("num_frames", 25), ("fps", 7)),
        sizes=SIZES,
        configs=XT_CONFIGS,
    ),
    Model(
        "svd-xt-1.1",
        "image-to-video",
        "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
        "smoother motion than XT; its licence must be accepted on the hub first",
        label="Stable Video Diffusion XT 1.1",
        job=(("height", SIZE[0]), ("width", SIZE[1]), ("num_frames", 25), ("fps", 7)),
        sizes=SIZES,
        configs=XT_CONFIGS,
    ),
)
