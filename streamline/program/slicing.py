"""Into which slices an axis is cut, and room for what is written slice by slice."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .axes import Axis, Shape


def bounds(size: int, slices: int) -> list[tuple[int, int]]:
    """Cut 0..size into at most `slices` runs whose lengths differ by one at most."""
    slices = max(1, min(slices, size))
    edges = [size * index // slices for index in range(slices + 1)]
    return list(pairwise(edges))


def widen(start: int, stop: int, halo: int, extent: int) -> tuple[int, int]:
    """Return a slice with its halo, as far as the axis goes."""
    return max(0, start - halo), min(extent, stop + halo)


def empty_for(axis: Axis, result: Tensor, like: Shape) -> Tensor:
    """Room for a whole value, given one slice of it and the shape of another value that is as long."""
    channels_last = result.ndim == 4 and not result.is_contiguous()
    channels_last = channels_last and result.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = axis.room(result.shape, like)
    return torch.empty(shape, dtype=result.dtype, device=result.device, memory_format=memory_format)
