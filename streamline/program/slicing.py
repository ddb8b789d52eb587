"""How a slice is cut from a value and written back: views only, no copy on the way in."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .stages import Axis


def bounds(size: int, slices: int) -> list[tuple[int, int]]:
    """Cut 0..size into at most `slices` runs whose lengths differ by one at most."""
    slices = max(1, min(slices, size))
    edges = [size * index // slices for index in range(slices + 1)]
    return list(pairwise(edges))


def extent(axis: Axis, value: Tensor) -> int:
    """Number of elements the axis has in a value: rows, or pixels."""
    if axis is Axis.FRAMES:
        return value.shape[0]
    return value.shape[1] if _is_tokens(value) else value.shape[2] * value.shape[3]


def cut(axis: Axis, value: Tensor, start: int, stop: int) -> Tensor:
    """A view of elements start to stop: rows of either layout, or pixels as the program describes them."""
    if axis is Axis.FRAMES:
        return value[start:stop]
    if _is_tokens(value):
        return value[:, start:stop]
    # view, not flatten: where a copy would be needed, what is written to the slice would be lost.
    return value.view(*value.shape[:2], -1)[:, :, start:stop].unsqueeze(3)


def whole(axis: Axis, value: Tensor) -> Tensor:
    """The one slice that is the whole value, in the shape a stage expects."""
    return cut(axis, value, 0, extent(axis, value))


def unslice(axis: Axis, result: Tensor, like: Tensor) -> Tensor:
    """What `whole` did, undone: pixels become (height, width) again, as they are in `like`."""
    if axis is Axis.FRAMES or _is_tokens(result):
        return result
    return result.reshape(*result.shape[:2], *like.shape[2:])


def empty_for(axis: Axis, result: Tensor, like: Tensor) -> Tensor:
    """Room for a whole value, given one slice of it and another value of the same rows and pixels."""
    if axis is Axis.FRAMES:
        shape = (like.shape[0], *result.shape[1:])
    elif _is_tokens(result):
        shape = (result.shape[0], extent(axis, like), result.shape[2])
    else:
        shape = (*result.shape[:2], *like.shape[2:])
    channels_last = result.ndim == 4 and not result.is_contiguous()
    channels_last = channels_last and result.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=result.dtype, device=result.device, memory_format=memory_format)


def _is_tokens(value: Tensor) -> bool:
    return value.ndim == 3
