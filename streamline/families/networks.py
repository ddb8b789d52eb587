"""Which networks can be run as programs, and which of them a pipeline has."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from ..errors import UnsupportedError
from ..job import Job
from ..registry import families, family_of
from .base import Network


def network_of(module: nn.Module) -> Network:
    """Return how a network is run. Raises UnsupportedError for a class that nobody has opened yet."""
    known = {network.kind: network for family in families() for network in family.networks}
    if type(module) not in known:
        names = ", ".join(kind.__name__ for kind in known)
        raise UnsupportedError(f"{type(module).__name__} cannot be streamlined; these can: {names}.")
    return known[type(module)]


def denoisers_of(pipe: DiffusionPipeline) -> tuple[nn.Module, ...]:
    """Return the networks of a pipeline that are called in its denoising steps, and sliced."""
    return family_of(pipe).denoisers_of(pipe)


def autoencoder_of(pipe: DiffusionPipeline) -> nn.Module:
    """Return the network of a pipeline that makes frames of latents."""
    return family_of(pipe).autoencoder_of(pipe)


def decoder_of(pipe: DiffusionPipeline) -> nn.Module:
    """Return the decoder within the autoencoder, or the autoencoder itself where it has none, to be refused by name."""
    autoencoder = autoencoder_of(pipe)
    return getattr(autoencoder, "decoder", autoencoder)


def working_on(pipe: DiffusionPipeline) -> dict[str, str]:
    """Return what each network of a pipeline does, in words that follow "memory ran out", by component name."""
    return dict(family_of(pipe).working)


def call_arguments(pipe: DiffusionPipeline, job: Job, image: Image.Image | None) -> dict[str, Any]:
    """Return what to call a pipeline with to do a job; raises InputError when the model cannot do it."""
    return family_of(pipe).arguments(pipe, job, image)
