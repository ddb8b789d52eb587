"""Stable Video Diffusion: a picture becomes a video."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, StableVideoDiffusionPipeline
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.autoencoders.vae import Encoder
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from ...errors import InputError
from ...fields import Field
from ...job import Job
from ..base import Called, Family, Network, Phase
from ..layers import image_encoder, latent_colours
from ..layers.held import Sizes
from ..subject import Subject
from . import decoder, unet
from .published import MODELS, SIZE

FIELDS = (
    Field(
        "motion_bucket_id", int, 127, most=255, label="Motion", info="0 still, 255 lively", words="motion bucket",
        short="motion", option="--motion-bucket", help="how much an image moves, 0 to 255 (127)",
    ),
    Field(
        "noise_aug_strength", float, 0.02, label="Freedom", info="noise on the picture", words="noise strength",
        short="noise", option="--noise", help="how far the video may stray from the image (0.02)",
    ),
)  # fmt: skip


class StableVideoDiffusion(Family):
    """StableVideoDiffusionPipeline: guidance over frames, both halves in one batch, a decoder that mixes frames."""

    name = "svd"
    pipelines = (StableVideoDiffusionPipeline,)
    networks = (
        Network(UNetSpatioTemporalConditionModel, unet.lower, unet.forward, unet.example),
        Network(TemporalDecoder, decoder.lower, decoder.forward, decoder.example),
        Network(Encoder, image_encoder.lower, image_encoder.forward, image_encoder.example),
    )
    components = ("unet", "vae", "image_encoder")
    fields = FIELDS
    models = MODELS
    working = {"unet": "in the denoiser", "image_encoder": "while the picture was encoded"}  # noqa: RUF012
    guidance_argument = "max_guidance_scale"
    clip_frames = 2
    is_chained = True

    def defaults(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        height, width = SIZE if side == 768 else (side, side)
        own = {field.name: field.default for field in self.fields}
        return {"height": height, "width": width, "num_frames": pipe.unet.config.num_frames, "fps": 7, **own}

    def check(self, pipe: DiffusionPipeline, job: Job) -> None:
        super().check(pipe, job)
        if job.num_frames < 2 and job.is_guided:  # guidance grows from the first frame to the last
            raise InputError("Stable Video Diffusion makes at least 2 frames.")

    def latent_frames(self, pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
        """latents: (1, frames, channels, height, width); more samples than one are left out."""
        return latent_colours.frames_of(pipe, latents, channel_axis=2)

    def colours(self, pipe: DiffusionPipeline, frames: Tensor) -> Tensor:
        return latent_colours.colours(pipe.vae, frames, _decode)

    def phases(self, subject: Subject, job: Job) -> tuple[Phase, ...]:
        """Return phases with what StableVideoDiffusionPipeline.__call__ and decode_latents hold."""
        batch, sizes = self.batch(job), Sizes.of(subject, job, self.scale(subject))
        embeddings = batch * subject.configs["unet"]["cross_attention_dim"] * sizes.itemsize
        condition, encode = 2 * sizes.picture, 2 * sizes.picture + embeddings
        model_input = 2 * batch * sizes.latents
        loop = sizes.loop(encode + sizes.latents + batch * sizes.latents, model_input, batch)
        decode = loop + sizes.latents  # scaled for the decoder
        if subject.configs["vae"].get("use_post_quant_conv", False):  # makes others
            decode += sizes.latents
        side = subject.configs["image_encoder"]["image_size"]
        # Its autoencoder is in float32 while it encodes, where it is kept in half precision.
        upcasts = subject.dtype == torch.float16 and subject.configs["vae"].get("force_upcast", True)
        width = torch.float32 if upcasts else subject.dtype

        def picture(network: nn.Module) -> dict[str, Tensor]:
            return {"sample": torch.zeros(1, 3, job.height, job.width, dtype=width)}

        def small_picture(network: nn.Module) -> dict[str, Tensor]:
            return {"pixel_values": torch.zeros(1, 3, side, side, dtype=subject.dtype)}

        frames = job.num_frames
        first = Called("image_encoder", small_picture)
        second = Called("vae", picture, "encoder", width, pixels=job.height * job.width)
        return (
            Phase("encode image", "call", condition, ("image_encoder",), called=first),
            Phase("encode frame", "call", encode, ("image_encoder", "vae"), called=second),
            Phase("denoise", "denoise", sizes.denoise(loop, model_input), ("unet", "vae"), frames=frames),
            Phase("decode", "decode", decode, ("vae",), frames=frames),
            Phase("export", "export", sizes.export(loop), ("vae",)),
        )


def _decode(vae: nn.Module, frames: Tensor) -> Tensor:
    """One frame after the other by the decoder's own forward: hooks and plans wait for the decoding of the run."""
    forward, alone = type(vae.decoder).forward, torch.zeros(1, 1, dtype=frames.dtype, device=frames.device)
    return torch.cat([forward(vae.decoder, frame[None], alone, num_frames=1) for frame in frames])


FAMILY = StableVideoDiffusion()
