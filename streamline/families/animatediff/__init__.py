"""AnimateDiff and its siblings: an image model of Stable Diffusion, moved by motion modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    MotionAdapter,
    PIAPipeline,
    UNetMotionModel,
)
from diffusers.models.autoencoders.vae import Decoder, Encoder
from torch import Tensor, nn

from ...errors import ModelError
from ...job import Job
from ..base import Family, Network, Phase
from ..layers import image_decoder, image_encoder, latent_colours
from ..subject import Subject
from . import unet
from .phases import FREE_INIT, FREE_NOISE, phases_of
from .published import ADAPTER, BASE, FRAMES, HALVES, MODELS

CLIP_TOKENS = 77  # that diffusers pads a prompt to, for Stable Diffusion's text encoder
IMAGE_PIPELINE = "StableDiffusionPipeline"  # that motion adapters go into


class AnimateDiff(Family):
    """AnimateDiffPipeline and pipelines like it: both halves of guidance in one batch, frames decoded one by one."""

    name = "animatediff"
    pipelines = (
        AnimateDiffPipeline,
        AnimateDiffControlNetPipeline,
        AnimateDiffSparseControlNetPipeline,
        AnimateDiffVideoToVideoPipeline,
        AnimateDiffVideoToVideoControlNetPipeline,
        AnimateDiffSDXLPipeline,
        PIAPipeline,
    )
    networks = (
        Network(UNetMotionModel, unet.lower, unet.forward, unet.example),
        Network(Decoder, image_decoder.lower, image_decoder.forward, image_decoder.example),
        Network(Encoder, image_encoder.lower, image_encoder.forward, image_encoder.example),
    )
    components = ("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "motion_adapter", "controlnet")
    halves = HALVES
    models = MODELS
    working = {  # noqa: RUF012
        "unet": "in the denoiser",
        "text_encoder": "while the text was encoded",
        "text_encoder_2": "while the text was encoded",
        "image_encoder": "while the picture was encoded",
        "controlnet": "in the ControlNet",
    }
    published_tokens = CLIP_TOKENS

    advice = {  # noqa: RUF012
        IMAGE_PIPELINE: "makes images; to move them, use animatediff with this as its base."
    }

    def sources(self, name: str, source: str, parts: Mapping[str, str]) -> dict[str, str]:
        if ADAPTER not in parts:
            raise ModelError(f"{name} has no base to exchange; a base goes with animatediff or a motion adapter.")
        return {"": parts.get(BASE, source), ADAPTER: parts[ADAPTER]}

    def check_host(self, source: str, kind: str) -> None:
        if kind != IMAGE_PIPELINE:
            raise ModelError(f"A motion adapter moves a Stable Diffusion 1.5 model, but {source} is a {kind}.")

    def join(self, folders: Mapping[str, Path], options: Callable[[Path], Mapping[str, Any]]) -> DiffusionPipeline:
        """The schedule is the adapters' own; with the image model's the video is grey and flickers."""
        adapter = MotionAdapter.from_pretrained(folders[ADAPTER], **options(folders[ADAPTER]))
        pipe = AnimateDiffPipeline.from_pretrained(folders[""], motion_adapter=adapter, **options(folders[""]))
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config,
            beta_schedule="linear",
            timestep_spacing="linspace",
            clip_sample=False,
            steps_offset=1,
        )
        return pipe

    def defaults(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        frames = min(FRAMES, pipe.unet.config.motion_max_seq_length or FRAMES)
        return {"height": side, "width": side, "num_frames": frames, "fps": 8}

    def longest(self, pipe: DiffusionPipeline) -> int | None:
        """Return how many positions the motion modules have; FreeNoise slides over any number of frames."""
        is_free = getattr(pipe, "free_noise_enabled", False)
        return None if is_free else pipe.unet.config.get("motion_max_seq_length")

    def latent_frames(self, pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
        """latents: (1, channels, frames, height, width); more samples than one are left out."""
        return latent_colours.frames_of(pipe, latents, channel_axis=1)

    def colours(self, pipe: DiffusionPipeline, frames: Tensor) -> Tensor:
        return latent_colours.colours(pipe.vae, frames, _decode)

    def tokens(self, pipe: DiffusionPipeline) -> int:
        return pipe.tokenizer.model_max_length

    def settings(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """FreeInit repeats all steps, at most as often as it says; FreeNoise has other motion modules."""
        found = {}
        if getattr(pipe, "free_init_enabled", False):
            found[FREE_INIT] = pipe._free_init_num_iters
        if getattr(pipe, "free_noise_enabled", False):
            found[FREE_NOISE] = True
        return found

    def phases(self, subject: Subject, job: Job) -> tuple[Phase, ...]:
        return phases_of(subject, job, self.batch(job), self.scale(subject))


def _decode(vae: nn.Module, frames: Tensor) -> Tensor:
    """One frame after the other by the decoder's own forward: hooks and plans wait for the decoding of the run."""
    frames = frames if vae.post_quant_conv is None else vae.post_quant_conv(frames)
    forward = type(vae.decoder).forward
    return torch.cat([forward(vae.decoder, frame[None]) for frame in frames])


FAMILY = AnimateDiff()
