"""Weights kept in 8 bits and computed with in more, by diffusers' layerwise casting: half the memory, another video.

The layers that have most of the weights (linear ones and convolutions, norms never) are cast as they are called, and
back again. Called as modules they are what they were, so a plan runs them like any others; only convolutions over
frames stay three-dimensional, and predictions have the seconds of two-dimensional ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers import ModelMixin
from torch import nn

FLOAT8, FLOAT8_NAME = torch.float8_e4m3fn, "float8"
HOOK = "layerwise_casting"


def keep_in(storage: torch.dtype, network: ModelMixin, dtype: torch.dtype) -> None:
    """Keep the layers of a network in another type from now on, which cannot be undone. dtype: to compute in."""
    network.enable_layerwise_casting(storage_dtype=storage, compute_dtype=dtype)


def is_cast(layer: nn.Module) -> bool:
    """Whether a layer's weights are cast as it is called, and nothing else is hooked to it."""
    registry = vars(layer).get("_diffusers_hook")
    return registry is not None and list(registry.hooks) == [HOOK] and not any(layer.children())


def storage_of(network: nn.Module) -> torch.dtype | None:
    """What its layers are kept in; None where they are kept as they are computed with."""
    layer = next(iter(cast_layers([network])), None)
    return None if layer is None else layer._diffusers_hook.get_hook(HOOK).storage_dtype


def cast_layers(modules: Iterable[nn.Module | None]) -> list[nn.Module]:
    """The layers within some modules that are cast as they are called, each once."""
    found = (layer for module in modules if module is not None for layer in module.modules())
    return [layer for layer in dict.fromkeys(found) if is_cast(layer)]


def size_of(layer: nn.Module) -> int:
    """Numbers in a layer's weights."""
    return sum(weight.numel() for weight in layer.parameters(recurse=False))
