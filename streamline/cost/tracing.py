"""What a network of any size costs, found by running the very code on tensors without data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..families.base import Family, Shape
from ..families.networks import network_of
from ..families.running import run_network
from ..families.subject import Subject
from ..families.subjects import build_part, subject_named, subject_of
from ..hardware.live_tensors import LiveTensors
from ..plan import BlockSlicing, Plan
from ..program.groups import check_blocks
from ..registry import family_named


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

    model: a published model by name, or a pipeline, or what is planned for; of a
        pipeline only the configurations are used, so adapters loaded into it are not seen.
    height, width: of the video in pixels. plan: None for the networks as they are.
    batch: samples in one call of the denoiser, 2 where guidance needs two halves; the decoder is given one video.
    prepare: called with the denoiser before it runs, to switch on what diffusers itself has for saving memory.
    Returns a Trace each for "denoiser" and "decoder". Raises UnsupportedError for networks that have no family.
    """
    subject = _subject(model, dtype)
    family: Family = family_named(subject.family)
    with torch.no_grad(), FakeTensorMode():
        denoiser, autoencoder = (build_part(subject, part) for part in (family.denoisers[0], family.autoencoder))
        cast(denoiser, dtype)
        cast(autoencoder, dtype)
        if prepare is not None:
            prepare(denoiser)
        scale = family.scale(subject)
        size = (num_frames, height // scale, width // scale)
        decoder = getattr(autoencoder, "decoder", autoencoder)
        return {
            "denoiser": _trace(denoiser, plan and plan.denoiser, plan, Shape(batch, *size)),
            "decoder": _trace(decoder, plan and plan.decoder, plan, Shape(1, *size)),
        }


def _trace(network: nn.Module, slicing: BlockSlicing | None, plan: Plan | None, shape: Shape) -> Trace:
    dtype = next(network.parameters()).dtype
    arguments = cast_arguments(network_of(network).example(network, shape), dtype)
    with LiveTensors([network], keep_timeline=True) as memory:
        if plan is None:
            network(**arguments)
        else:
            check_blocks(network_of(network).lower(network), slicing)
            run_network(network, slicing, plan.guidance == "sequential", **arguments)
    return Trace(memory.peak_bytes, memory.weights_bytes, memory.calls, tuple(memory.timeline))


def _subject(model: str | Subject | DiffusionPipeline, dtype: torch.dtype) -> Subject:
    if isinstance(model, Subject):
        return model
    return subject_named(model, dtype) if isinstance(model, str) else subject_of(model)


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
