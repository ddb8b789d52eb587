"""What a network of any size costs, found by running the very code on tensors without data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..families import published
from ..families.networks import family_of
from ..families.running import run_network
from ..hardware.live_tensors import LiveTensors
from ..plan import BlockSlicing, Plan
from .subject import Subject


@dataclass(frozen=True)
class Trace:
    """What one call of one network costs, found without data.

    peak_bytes: activations alive at the worst moment, weights not counted.
    calls: operators run. timeline: live bytes after each of them.
    """

    peak_bytes: int
    weights_bytes: int
    calls: int
    timeline: tuple[int, ...]


def trace(
    model: str | Subject | DiffusionPipeline,
    *,
    height: int,
    width: int,
    num_frames: int,
    plan: Plan | None = None,
    batch: int = 2,
    dtype: torch.dtype = torch.float16,
    prepare: Callable[[nn.Module], object] | None = None,
) -> dict[str, Trace]:
    """Run one denoising step and one decode on tensors without data, by the code that runs with data.

    model: a published model by name ("svd", "svd-xt", "animatediff"), or a pipeline, or what is planned for; of a
        pipeline only the configurations are used, so adapters loaded into it are not seen.
    height, width: of the video in pixels. plan: None for the networks as they are.
    batch: samples in one call of the UNet, 2 where guidance needs two halves; the decoder is given one video.
    prepare: called with the UNet before it runs, to switch on what diffusers itself has for saving memory.
    Returns a Trace each for "denoiser" and "decoder". Raises UnsupportedError for networks that have no family.
    """
    with torch.no_grad(), FakeTensorMode():
        unet, vae = _networks(model)
        cast(unet, dtype)
        cast(vae, dtype)
        if prepare is not None:
            prepare(unet)
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        size = (num_frames, height // scale, width // scale)
        return {
            "denoiser": _trace(unet, plan and plan.denoiser, plan, (batch, *size)),
            "decoder": _trace(vae.decoder, plan and plan.decoder, plan, (1, *size)),
        }


def _trace(network: nn.Module, slicing: BlockSlicing | None, plan: Plan | None, extent: tuple[int, ...]) -> Trace:
    dtype = next(network.parameters()).dtype
    arguments = cast_arguments(family_of(network).example(network, *extent), dtype)
    with LiveTensors([network], keep_timeline=True) as memory:
        if plan is None:
            network(**arguments)
        else:
            run_network(network, slicing, plan.guidance == "apart", **arguments)
    return Trace(memory.peak_bytes, memory.weights_bytes, memory.calls, tuple(memory.timeline))


def _networks(model: str | Subject | DiffusionPipeline) -> tuple[nn.Module, nn.Module]:
    if isinstance(model, Subject):
        return model.build("unet"), model.build("vae")
    if isinstance(model, str):
        return published.build(model, "unet"), published.build(model, "vae")
    return tuple(type(part).from_config(part.config).eval() for part in (model.unet, model.vae))


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """network.to(dtype), which fake tensors cannot do; setting torch's default type would reach other threads."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))


def cast_arguments(value: object, dtype: torch.dtype) -> object:
    """Everything but timesteps, which schedulers keep as they are."""
    if isinstance(value, dict):
        return {name: cast_arguments(item, dtype) for name, item in value.items()}
    is_feature = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 0
    return value.to(dtype) if is_feature else value
