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
from torch.utils._pytree import tree_leaves

from ..sizes import format_bytes
from .foresight import Foresight


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
        self._known: weakref.WeakSet = weakref.WeakSet()
        for network in self.networks:
            for tensor in (*network.parameters(), *network.buffers()):
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    self.weights_bytes += storage.nbytes()
        self._foresight = Foresight()
        self._mode = _Mode(self)

    def __enter__(self) -> LiveTensors:
        self._check_limit()
        self._mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._mode.__exit__(*error)

    def reset_peak(self) -> None:
        """Let the peak start again from what is alive now."""
        self.peak_bytes = self.live_bytes

    def _knows(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage() in self._known

    def _see(self, made: list[torch.Tensor], given: list[torch.Tensor]) -> None:
        for tensor in given:
            self._known.add(tensor.untyped_storage())
        for storage in (tensor.untyped_storage() for tensor in made):
            if storage not in self._known:
                self._known.add(storage)
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._drop, storage.nbytes()).atexit = False
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self._check_limit()

    def _foresee(self, func: torch._ops.OpOverload, args: tuple, kwargs: dict) -> None:
        if self.limit_bytes is not None and not func.is_view:
            self._check_limit(self._foresight.new_bytes(func, args, kwargs))

    def _check_limit(self, more: int = 0) -> None:
        live = self.live_bytes + more
        if self.limit_bytes is not None and self.weights_bytes + live > self.limit_bytes:
            raise torch.OutOfMemoryError(
                f"Out of memory: {format_bytes(self.weights_bytes)} of weights and {format_bytes(live)} of "
                f"activations exceed the cap of {format_bytes(self.limit_bytes)}."
            )

    def _drop(self, size: int) -> None:
        self.live_bytes -= size


class _Mode(TorchDispatchMode):
    def __init__(self, counter: LiveTensors) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.counter._foresee(func, args, kwargs)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if not all(map(self.counter._knows, made)):
            # A view of a tensor from before counting began is nothing new either.
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            self.counter._see(made, given)
        if func.namespace == "aten" and not func.is_view:
            self.counter.calls += 1
            if self.counter.keep_timeline:
                self.counter.timeline.append(self.counter.live_bytes)
        return result
