"""What an operator call is going to allocate, asked of the operator itself on tensors without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map


class Foresight:
    """Bytes that operator calls will make new, without making them; alike calls are asked about once."""

    def __init__(self) -> None:
        self._known: dict[tuple, int] = {}

    def new_bytes(self, func: torch._ops.OpOverload, args: Sequence, kwargs: Mapping) -> int:
        """Return bytes of all storages that the call returns and was not given; 0 where only running it can tell."""
        key = (func, *map(_key, leaves((args, kwargs))))
        if key not in self._known:
            with _disable_current_modes():  # what is made to find out is nobody's memory
                self._known[key] = _ask(func, args, kwargs)
        return self._known[key]


def leaves(value: object) -> list:
    """Return what an operator takes or gives, out of its lists;
    torch's own way, for any structure, takes far longer."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if not isinstance(value, (tuple, list)):
        return [value]
    found = []
    for part in value:
        if isinstance(part, (tuple, list, dict)):
            found += leaves(part)
        else:
            found.append(part)
    return found


def _key(leaf: object) -> object:
    if isinstance(leaf, Tensor):
        return leaf.dtype, leaf.shape, leaf.stride()
    return type(leaf), str(leaf)  # 1 is not True, and nan is not itself


def _ask(func: torch._ops.OpOverload, args: Sequence, kwargs: Mapping) -> int:
    twins: dict[int, Tensor] = {}

    def twin(leaf: object) -> object:
        if isinstance(leaf, Tensor) and id(leaf) not in twins:
            twins[id(leaf)] = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
        return twins[id(leaf)] if isinstance(leaf, Tensor) else leaf

    without_data = {"device": torch.device("meta"), "generator": None}
    elsewhere = {name: without_data.get(name, value) for name, value in kwargs.items()}
    given, named = tree_map(twin, (tuple(args), elsewhere))
    try:
        made = func(*given, **named)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # it has no such kernel, or looks at values
        return 0
    tensors = (leaf for leaf in leaves(made) if isinstance(leaf, Tensor))
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    for tensor in twins.values():
        storages.pop(tensor.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in storages.values())
