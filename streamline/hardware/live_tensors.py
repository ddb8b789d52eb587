"""Live tensors: how many bytes are alive at every operator call, on real or on fake tensors alike.

The count is of storages that operators allocate, each once however many views it has, from the call that made
it until nobody holds it. Weights are counted apart, and a view of a weight is no activation. What an operator
uses inside itself (a convolution's workspace) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..sizes import format_bytes
from .foresight import Foresight, leaves


@dataclass(eq=False)
class LiveTensors:
    """Counts activations while it is active: `with LiveTensors([pipe.unet]) as memory: ...`.

    networks: whose weights are not activations.
    live_bytes, peak_bytes: activations alive now, and at the worst moment.
    calls: operator calls that compute or move something; views are free and not counted.
    timeline: live bytes after every call, if asked for.
    limit_bytes: for weights and activations together. The operator call that would exceed it, or entering with weights
        that do, raises torch.OutOfMemoryError, as a GPU of that size would: before the call is made, but for the few
        operators whose output only running them can tell.
    """

    networks: Iterable[nn.Module] = ()
    keep_timeline: bool = False
    live_bytes: int = 0
    peak_bytes: int = 0
    calls: int = 0
    weights_bytes: int = 0
    timeline: list[int] = field(default_factory=list)
    limit_bytes: int | None = None

    def __post_init__(self) -> None:
        self._known: dict[int, weakref.ref] = {}  # storages that are alive and were seen, by their address
        for network in self.networks:
            for tensor in (*network.parameters(), *network.buffers()):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._know(storage, storage.nbytes())
                    self.weights_bytes += storage.nbytes()
        self.live_bytes = 0  # weights count apart
        self._foresight = Foresight()
        self._mode = _Mode(self)

    def __enter__(self) -> LiveTensors:
        self._check_limit()
        self._mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._mode.__exit__(*error)

    def _see(self, storages: list[torch.UntypedStorage], given: list[object]) -> None:
        """Storages that a call gave out and that are not known, and what it was given."""
        # What is written into, and was there before counting began, is nothing new either.
        for leaf in given:
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self._known:
                self._know(leaf.untyped_storage())
        for storage in storages:
            if storage._cdata not in self._known:
                self._know(storage, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self._check_limit()

    def _know(self, storage: torch.UntypedStorage, counted: int = 0) -> None:
        """Remember a storage while it lives. counted: bytes of it that are live until then."""
        address = storage._cdata
        self._known[address] = weakref.ref(storage, lambda _: self._drop(address, counted))
        self.live_bytes += counted

    def _foresee(self, func: torch._ops.OpOverload, args: tuple, kwargs: dict) -> None:
        if self.limit_bytes is not None:
            self._check_limit(self._foresight.new_bytes(func, args, kwargs))

    def _check_limit(self, more: int = 0) -> None:
        live = self.live_bytes + more
        if self.limit_bytes is not None and self.weights_bytes + live > self.limit_bytes:
            raise torch.OutOfMemoryError(
                f"Out of memory: {format_bytes(self.weights_bytes)} of weights and {format_bytes(live)} of "
                f"activations exceed the cap of {format_bytes(self.limit_bytes)}."
            )

    def _drop(self, address: int, counted: int) -> None:
        del self._known[address]
        self.live_bytes -= counted


class _Mode(TorchDispatchMode):
    def __init__(self, counter: LiveTensors) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # In inference mode operators come whole that are views or copies as it happens.
        if func.is_view and not torch.is_inference_mode_enabled():
            return func(*args, **kwargs)
        self.counter._foresee(func, args, kwargs)
        result = func(*args, **kwargs)
        made = [leaf.untyped_storage() for leaf in leaves(result) if isinstance(leaf, torch.Tensor)]
        new = [storage for storage in made if storage._cdata not in self.counter._known]
        if new:
            self.counter._see(new, leaves((args, kwargs)))
        if func.namespace == "aten":
            self.counter.calls += 1
            if self.counter.keep_timeline:
                self.counter.timeline.append(self.counter.live_bytes)
        return result
