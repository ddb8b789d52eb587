"""A budget as a hard cap: what needs more fails at once, as it would on a card that has no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DeviceError
from ..sizes import format_bytes
from .device import Device
from .live_tensors import LiveTensors


@contextmanager
def capped(device: Device, budget_bytes: int, networks: Iterable[nn.Module] = ()) -> Iterator[LiveTensors | None]:
    """Raise torch.OutOfMemoryError as soon as this process needs more than a budget: `with capped(...): run(...)`.

    device: on a CUDA GPU its allocator is limited to what the budget leaves beside the context, cached blocks
        included. Elsewhere, and for an emulated device, live tensors are counted, which slows every operator down.
    budget_bytes: for weights, activations and, on CUDA, the context.
    networks: whose weights are on the device, counted from the start where tensors are counted; CUDA knows.

    Yields what counts live tensors, where they are counted.
    The cap is gone on exit, also after an error. Where tensors are counted it holds in this thread only.
    Raises DeviceError for a budget that the context alone exceeds.
    """
    room = budget_bytes - device.context_bytes
    if room <= 0:
        raise DeviceError(
            f"A budget of {format_bytes(budget_bytes)} leaves no room beside the context of {device.name}, "
            f"which takes {format_bytes(device.context_bytes)}."
        )
    if device.kind == "cuda" and not device.emulated:
        with _capped_allocator(device.index, room):
            yield None
    else:
        with LiveTensors(networks, limit_bytes=room) as memory:
            yield memory


@contextmanager
def _capped_allocator(index: int, room: int) -> Iterator[None]:
    _, total = torch.cuda.mem_get_info(index)
    before = torch.cuda.get_per_process_memory_fraction(index)
    torch.cuda.empty_cache()  # blocks that nobody uses would count
    torch.cuda.set_per_process_memory_fraction(min(before, room / total), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, index)
