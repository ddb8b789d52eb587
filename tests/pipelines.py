"""Tiny pipelines of the true classes with random weights, each with the arguments of one call.

Latents are 5 x 4, so that halving them rounds and going up needs explicit sizes. Norms, biases and the zero
convolutions of control networks are moved off their tidy starting values, where errors could hide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import untrained
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    ControlNetModel,
    DiffusionPipeline,
    MotionAdapter,
    PIAPipeline,
    SparseControlNetModel,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
)

from streamline import Plan, Slicing

HEIGHT, WIDTH, FRAMES, STEPS = 40, 32, 5, 5
WIDTHS = (16, 32)
TEXT_WIDTH = 32

PLANS = {
    "uneven": Plan.uniform(3, guidance="sequential"),
    "groups": Plan(
        denoiser={"*": Slicing(4, 3, group=2), "mid": Slicing(2, 1), "up.0": Slicing(3, 7, group=1)},
        decoder={"*": Slicing(2, 3, group=3), "up.3": Slicing(5, 4)},
        guidance="batched",
    ),
    "finest": Plan(Slicing(99, 99), Slicing(99, 9, group=1), guidance="sequential"),
}


@dataclass
class Call:
    """A pipeline and what to call it with; an option changes either, and the call is made again."""

    pipe: DiffusionPipeline
    arguments: dict[str, Any]
    seed: int = 7

    def __call__(self, **changes: Any) -> Outcome:
        """Run from the same seed every time, keeping the latents of every step."""
        latents: list[Tensor] = []
        callback = self.arguments.get("callback_on_step_end")

        def keep(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
            if callback is not None:
                tensors = callback(pipe, step, timestep, tensors)
            latents.append(tensors["latents"].clone())
            return tensors

        generator = torch.Generator().manual_seed(self.seed)
        arguments = {"output_type": "pt", **self.arguments, **changes, "callback_on_step_end": keep}
        torch.manual_seed(self.seed)  # FreeInit draws from the global generator
        frames = self.pipe(**arguments, generator=generator).frames
        return Outcome(torch.stack(latents), frames)


@dataclass(frozen=True)
class Outcome:
    """What one call gave. latents: after each step, (steps, ...). frames: whatever output_type asked for."""

    latents: Tensor
    frames: Any

    def error(self, other: Outcome) -> float:
        """The largest difference of any latents, relative to the largest of the latents of their step."""
        difference = (self.latents.double() - other.latents.double()).abs().flatten(1).amax(dim=1)
        return (difference / other.latents.double().abs().flatten(1).amax(dim=1)).max().item()

    def same(self, other: Outcome) -> bool:
        return torch.equal(self.latents, other.latents) and torch.equal(self.frames, other.frames)


def text_to_video(kind: type[DiffusionPipeline] = AnimateDiffPipeline, *, mid_block: bool = True, **parts: Any) -> Call:
    """An AnimateDiff pipeline, its motion adapter with or without motion in the middle block."""
    torch.manual_seed(0)
    text = untrained.image_model().components
    adapter = MotionAdapter(
        block_out_channels=WIDTHS,
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=12,
        use_motion_mid_block=mid_block,
        conv_in_channels=9 if kind is PIAPipeline else None,
    )
    parts = {"unet": image_unet(), **parts}
    pipe = kind(
        vae=image_vae(),
        text_encoder=text["text_encoder"],
        tokenizer=text["tokenizer"],
        scheduler=text["scheduler"],
        feature_extractor=CLIPImageProcessor(),
        image_encoder=untrained.vision_model(),
        motion_adapter=adapter,
        **parts,
    )
    return Call(_ready(pipe), {"prompt": "a cat", "num_frames": FRAMES, **_common(), "guidance_scale": 5.0})


def text_to_video_xl() -> Call:
    """SDXL: a second text encoder, embeddings of sizes, several transformer layers in a block."""
    text = untrained.image_model().components
    config = CLIPTextConfig(**{**text["text_encoder"].config.to_dict(), "projection_dim": TEXT_WIDTH})
    unet = image_unet(
        cross_attention_dim=2 * TEXT_WIDTH,
        transformer_layers_per_block=(2, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )
    return text_to_video(
        AnimateDiffSDXLPipeline,
        unet=unet,
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer_2=text["tokenizer"],
    )


def controlled(kind: type[DiffusionPipeline] = AnimateDiffControlNetPipeline) -> Call:
    """A ControlNet that looks at one picture a frame."""
    network = ControlNetModel.from_unet(image_unet(), conditioning_embedding_out_channels=(8,) * 4)
    call = text_to_video(kind, controlnet=_shaken(network))
    call.arguments["conditioning_frames"] = pictures()
    return call


def sparsely_controlled() -> Call:
    """A SparseCtrl network, with motion modules of its own, that looks at two pictures."""
    network = SparseControlNetModel(
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        conditioning_channels=4,
        conditioning_embedding_out_channels=(8, 8),
    )
    call = text_to_video(AnimateDiffSparseControlNetPipeline, controlnet=_shaken(network))
    call.arguments |= {"conditioning_frames": pictures()[:2], "controlnet_frame_indices": [0, 3]}
    return call


def video_to_video() -> Call:
    return _from_video(text_to_video(AnimateDiffVideoToVideoPipeline))


def controlled_video_to_video() -> Call:
    return _from_video(controlled(AnimateDiffVideoToVideoControlNetPipeline))


def free_noise() -> Call:
    """More frames than the motion modules see at once, under prompts that change on the way."""
    call = text_to_video()
    call.pipe.enable_free_noise(context_length=4, context_stride=2)
    call.arguments |= {"prompt": {0: "a cat", 5: "a dog"}, "num_frames": 7}
    return call


def free_init() -> Call:
    """Two rounds of denoising, the second from the low frequencies of the first."""
    call = text_to_video()
    call.pipe.enable_free_init(num_iters=2)
    return call


def personalized() -> Call:
    """PIA: AnimateDiff's UNet with the first frame and a mask among its input channels."""
    call = text_to_video(PIAPipeline)
    call.arguments["image"] = pictures()[0]
    return call


def image_to_video() -> Call:
    """Stable Video Diffusion."""
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1
    )
    pipe = StableVideoDiffusionPipeline(**untrained.svd().components | {"vae": vae})
    return Call(_ready(pipe), {"image": pictures()[0], "num_frames": FRAMES, **_common()})


PIPELINES: dict[str, Callable[[], Call]] = {
    "svd": image_to_video,
    "animatediff": text_to_video,
    "animatediff, no motion in the middle": lambda: text_to_video(mid_block=False),
    "controlnet": controlled,
    "sparse control": sparsely_controlled,
    "video to video": video_to_video,
    "video to video, controlnet": controlled_video_to_video,
    "free noise": free_noise,
    "free init": free_init,
    "sdxl": text_to_video_xl,
    "pia": personalized,
}


def image_unet(**config: Any) -> UNet2DConditionModel:
    defaults = {
        "sample_size": 5,
        "block_out_channels": WIDTHS,
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**defaults | config)


def image_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=32,
    )


def pictures(count: int = FRAMES) -> list[Image.Image]:
    """Noise, the same every time."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (count, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def _from_video(call: Call) -> Call:
    del call.arguments["num_frames"], call.arguments["height"], call.arguments["width"]
    call.arguments |= {"video": pictures(), "height": HEIGHT, "width": WIDTH, "enforce_inference_steps": True}
    return call


def _common() -> dict[str, Any]:
    return {"height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS}


def _ready(pipe: DiffusionPipeline) -> DiffusionPipeline:
    for network in pipe.components.values():
        if isinstance(network, nn.Module):
            _shaken(network)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _shaken(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim <= 1 or not parameter.any():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network.eval()
