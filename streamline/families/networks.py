"""The registry: which diffusers networks can be lowered, and by which family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    DiffusionPipeline,
    PIAPipeline,
    StableVideoDiffusionPipeline,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.autoencoders.vae import Decoder, Encoder
from torch import nn

from ..errors import UnsupportedError
from ..program.stages import Program
from .animatediff import unet as motion
from .layers import image_decoder as decoder
from .layers import image_encoder as encoder
from .svd import decoder as temporal_decoder
from .svd import unet as spatio_temporal

PIPELINES = (
    StableVideoDiffusionPipeline,
    AnimateDiffPipeline,
    AnimateDiffControlNetPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffSDXLPipeline,
    PIAPipeline,
)


@dataclass(frozen=True)
class Family:
    """How one class of network is run as a program.

    lower: network -> Program.
    forward: forward(network, execute, ...) takes what the network's own forward takes and returns what it
        returns, its features computed by execute(values, conditions).
    example: example(network, batch, frames, height, width) -> arguments for one such call, height and width
        counted in latent pixels.
    """

    lower: Callable[[nn.Module], Program]
    forward: Callable[..., Any]
    example: Callable[[nn.Module, int, int, int, int], dict[str, Any]]


FAMILIES: dict[type[nn.Module], Family] = {
    UNetSpatioTemporalConditionModel: Family(spatio_temporal.lower, spatio_temporal.forward, spatio_temporal.example),
    TemporalDecoder: Family(temporal_decoder.lower, temporal_decoder.forward, temporal_decoder.example),
    UNetMotionModel: Family(motion.lower, motion.forward, motion.example),
    Decoder: Family(decoder.lower, decoder.forward, decoder.example),
    Encoder: Family(encoder.lower, encoder.forward, encoder.example),
}


def family_of(network: nn.Module) -> Family:
    """The family of a network. Raises UnsupportedError for a class that nobody has opened yet."""
    if type(network) not in FAMILIES:
        known = ", ".join(kind.__name__ for kind in FAMILIES)
        raise UnsupportedError(f"{type(network).__name__} cannot be streamlined; these can: {known}.")
    return FAMILIES[type(network)]


def denoisers_of(pipe: DiffusionPipeline) -> tuple[nn.Module, ...]:
    """Return the networks of a pipeline that are called in its denoising steps, and sliced."""
    return (pipe.unet,)


def autoencoder_of(pipe: DiffusionPipeline) -> nn.Module:
    """Return the network of a pipeline that makes frames of latents."""
    return pipe.vae


def decoder_of(pipe: DiffusionPipeline) -> nn.Module:
    """Return the decoder within the autoencoder, or the autoencoder itself where it has none, to be refused by name."""
    return getattr(pipe.vae, "decoder", pipe.vae)


def working_on(pipe: DiffusionPipeline) -> dict[str, str]:
    """Return what each network of a pipeline does, in words that follow "memory ran out", by component name."""
    return {
        "unet": "in the denoiser",
        "text_encoder": "while the text was encoded",
        "text_encoder_2": "while the text was encoded",
        "image_encoder": "while the picture was encoded",
        "controlnet": "in the ControlNet",
    }
