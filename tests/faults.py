"""Memory that runs out on demand: at operator calls that make tensors, counted across whatever runs inside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class Faults(TorchDispatchMode):
    """Raises torch.OutOfMemoryError at the calls that `fails` picks by number, counted from 1.

    inside: whether each call was made within a call of one of the networks.
    """

    def __init__(self, fails: Callable[[int], bool], networks: tuple[nn.Module, ...] = ()) -> None:
        super().__init__()
        self._fails = fails
        self._depth = 0
        self.inside: list[bool] = []
        self._handles = [network.register_forward_pre_hook(self._enter) for network in networks]
        self._handles += [network.register_forward_hook(self._leave, always_call=True) for network in networks]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten" and not func.is_view:
            self.inside.append(self._depth > 0)
            if self._fails(len(self.inside)):
                raise torch.OutOfMemoryError(f"Out of memory at call {len(self.inside)}, on demand.")
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*error)

    def _enter(self, *_: object) -> None:
        self._depth += 1

    def _leave(self, *_: object) -> None:
        self._depth -= 1
