"""What one stage of a program takes on one slice, found by running it on tensors without data, or on zeros.

Working out what an operator gives takes some hundred times as long as running it on a few numbers. So a small network
is run instead, to the same result (tests/test_cost.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import add
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..families.networks import network_of
from ..hardware.live_tensors import LiveTensors
from ..program.axes import PIXELS, Axis
from ..program.conditions import Conditions
from ..program.moments import AppliedNorm, Moments, measure
from ..program.stages import Stage

T = TypeVar("T")

SMALL = 10**10  # products of a call of a network that is run on zeros, about: some tenths of a second
MUCH = 1e9  # operations of one of its stages, at which that is no gain any more

ALLOCATING = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided}

# Where a stage finds what it reads: made within the slice, cut from a whole value that lies packed in memory,
# or cut from one that lies as the unsliced network leaves it.
INSIDE, PACKED, NATURAL = "i", "p", "n"


class Work(NamedTuple):
    """What a device has to do. Fractions come from reading between two measured slice sizes.

    flops: of matrix products, convolutions and attention; product_bytes: what these read and write.
    moved_bytes: what every other operator reads and writes. calls: operators launched.
    sent_bytes: to or from host memory.
    """

    flops: float = 0.0
    product_bytes: float = 0.0
    moved_bytes: float = 0.0
    calls: float = 0.0
    sent_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*map(add, self, other))

    def __mul__(self, times: float) -> Work:
        return Work(*(part * times for part in self))


@dataclass(frozen=True)
class Sample:
    """One stage on one slice.

    peak_bytes: the most it had alive at once beyond what it was given. kept_bytes: what its result holds.
    largest_convolution_bytes: the most that one convolution reads and writes, weights not counted.
    """

    peak_bytes: float
    kept_bytes: float
    largest_convolution_bytes: float
    work: Work

    def between(self, other: Sample, fraction: float) -> Sample:
        """Return the point at `fraction` on the line from here (0) to another sample (1), or beyond."""
        pairs = zip(self.to_list(), other.to_list(), strict=True)
        return Sample.from_list([a + (b - a) * fraction for a, b in pairs])

    def to_list(self) -> list[float]:
        return [self.peak_bytes, self.kept_bytes, self.largest_convolution_bytes, *self.work]

    @classmethod
    def from_list(cls, numbers: list[float]) -> Sample:
        return cls(*numbers[:3], Work(*numbers[3:]))


@dataclass(frozen=True)
class Value:
    """A whole value as the unsliced network leaves it.

    shape: (rows, channels, height, width) or (rows, pixels, channels). order: dimensions from the slowest to
    the fastest in memory.
    """

    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Value:
        order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim))
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tuple(order))

    @classmethod
    def from_list(cls, fields: list) -> Value:
        shape, dtype, order = fields
        return cls(tuple(shape), dtype, tuple(order))

    def to_list(self) -> list:
        return [list(self.shape), self.dtype, list(self.order)]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * getattr(torch, self.dtype).itemsize

    @property
    def is_packed(self) -> bool:
        """Whether the executor would lay it out alike: contiguous, or channels last."""
        return self.order in ((0, 1, 2, 3), (0, 2, 3, 1), (0, 1, 2))

    def packed(self) -> Value:
        return self if self.is_packed else Value(self.shape, self.dtype, tuple(sorted(self.order)))

    def extent(self, axis: Axis) -> int:
        return axis.extent(self.shape)

    def empty(self) -> Tensor:
        """Return a tensor of this layout, without data where fake tensors are made."""
        strides, step = [0] * len(self.shape), 1
        for dim in reversed(self.order):
            strides[dim], step = step, step * self.shape[dim]
        return torch.empty_strided(self.shape, strides, dtype=getattr(torch, self.dtype))

    def piece(self, axis: Axis, size: int) -> Value:
        """Return one slice of it that is a tensor of its own."""
        return Value(axis.piece(self.shape, size), self.dtype, self.order)


def metered(action: Callable[[], T], networks: Iterable[nn.Module] = ()) -> tuple[T, Sample]:
    """Return what a call on tensors without data returns, and takes. networks: whose weights are not activations."""
    counter = WorkCounter()
    with torch.no_grad(), LiveTensors(networks) as memory, counter:
        result = action()
    return result, counter.sample(memory)


class WorkCounter(TorchDispatchMode):
    """Adds up what operators do while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self._totals = [0.0, 0.0, 0.0, 0.0]
        self._largest_convolution = 0

    def sample(self, memory: LiveTensors) -> Sample:
        return Sample(memory.peak_bytes, memory.live_bytes, self._largest_convolution, Work(*self._totals))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace == "aten" and not func.is_view:
            operator = func.overloadpacket
            size = sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
            count = flop_registry.get(operator)
            if count is not None:
                self._totals[0] += count(*args, **kwargs, out_val=result)
                self._totals[1] += size
            elif operator not in ALLOCATING:
                self._totals[2] += size
            self._totals[3] += 1
            if operator is torch.ops.aten.convolution:
                self._largest_convolution = max(self._largest_convolution, args[0].nbytes + result.nbytes)
        return result


class Probe:
    """A network without data, whose stages can be run one by one: on fake tensors, or on zeros if it is small.

    inputs: layouts of what goes into its program. head: what the network's forward does before the program runs,
    and as kept_bytes what it holds meanwhile, its arguments not counted.
    """

    def __init__(self, network: nn.Module, arguments: dict) -> None:
        """arguments: of one call. Both are made in one FakeTensorMode."""
        mode = next(network.parameters()).fake_mode
        self._way = self._without_data = self._reach_stages(network, arguments, lambda: mode)
        if self._is_small(network):
            with unset_fake_temporarily():
                self._way = self._reach_stages(*_on_zeros(network, arguments), unset_fake_temporarily)

    def _reach_stages(
        self, network: nn.Module, arguments: dict, mode: Callable[[], AbstractContextManager]
    ) -> tuple[dict[str, Stage], Conditions, Callable[[], AbstractContextManager]]:
        family = network_of(network)
        memory, counter = LiveTensors([network]), WorkCounter()

        def stop(values: dict[str, Tensor], conditions: Conditions) -> Tensor:
            self.inputs = {name: Value.of(value) for name, value in values.items()}
            self.head = counter.sample(memory)
            raise _Reached(conditions)

        with mode(), torch.no_grad():
            stages = {stage.name: stage for stage in family.lower(network).stages}
            try:
                with memory, counter:
                    family.forward(network, stop, **arguments)
            except _Reached as reached:
                return stages, reached.conditions, mode

    def _is_small(self, network: nn.Module) -> bool:
        """Whether stages are likely run in less time than it takes to work out what their operators would give.

        In float32, for CPUs are slow at other types. A weight is used about once for every pixel of every row.
        """
        is_full = all(weight.dtype == torch.float32 for weight in network.parameters())
        weights = sum(weight.numel() for weight in network.parameters())
        pixels = sum(value.shape[0] * value.extent(PIXELS) for value in self.inputs.values())
        return is_full and weights * pixels <= SMALL

    def _metered(self, action: Callable[[], T]) -> tuple[T, Sample]:
        """As `metered`; after much work, go on without data."""
        found = metered(action)
        if found[1].work.flops > MUCH:
            self._way = self._without_data
        return found

    def whole(self, name: str, reads: list[Value], tags: str) -> tuple[Value, Sample]:
        """Return what a stage takes on whole values, and the layout of what it writes."""
        stages, conditions, mode = self._way
        stage = stages[name]
        with mode():
            values = [_laid_out(value, tag).empty() for value, tag in zip(reads, tags, strict=True)]
            norm = () if stage.norm is None else (stage.norm,)
            slices = [stage.axis.whole(value) for value in values]
            result, sample = self._metered(
                lambda: stage.axis.unslice(
                    stage.run(*norm, conditions, *slices), values[stage.reads.index(stage.along)]
                )
            )
            return Value.of(result), sample

    def slice(self, name: str, reads: list[Value], tags: str, size: int, around: tuple[int, int] = (0, 0)) -> Sample:
        """Return what a stage takes on a slice of `size` elements of its axis.
        around: how many more a halo reaches on each side."""
        stages, conditions, mode = self._way
        stage, (before, after) = stages[name], around
        axis, needed = stage.axis, before + size + after

        def given(name: str, value: Value, tag: str) -> Tensor:
            if tag == INSIDE:
                return value.piece(axis, size).empty()
            if name in stage.whole:
                return axis.whole(_laid_out(value, tag).empty())
            # Between two measured sizes is read off, of which one may be larger than the value with its halo.
            wide = value if value.extent(axis) >= needed else value.piece(axis, needed)
            halo = stage.halo.get(name, 0)
            return axis.cut(_laid_out(wide, tag).empty(), before - min(halo, before), before + size + min(halo, after))

        with mode():
            slices = [given(*each) for each in zip(stage.reads, reads, tags, strict=True)]
            norm = () if stage.norm is None else (_applied(stage.norm, conditions.batch),)
            extent = reads[stage.reads.index(stage.along)].extent(axis)
            seen = conditions.of_slice(axis, before, before + size, extent)
            return self._metered(lambda: stage.run(*norm, seen, *slices))[1]

    def norm(self, name: str, value: Value, tag: str, slices: int) -> Sample:
        """Taking the moments of what a stage normalises, in so many slices of rows."""
        stages, conditions, mode = self._way
        with mode():
            images = _laid_out(value, tag).empty()
            return self._metered(lambda: measure(stages[name].norm, images, conditions.batch, slices))[1]

    def moments(self, name: str, value: Value, size: int) -> Sample:
        """Taking the moments of what a stage normalises from slices of pixels, of which this is one."""
        stages, conditions, mode = self._way

        def take(pixels: Tensor) -> AppliedNorm:
            moments = Moments(stages[name].norm, conditions.batch)
            moments.add(pixels)
            return moments.applied()

        with mode():
            pixels = value.piece(PIXELS, size).empty()
            return self._metered(lambda: take(pixels))[1]


def _applied(norm: nn.GroupNorm, batch: int) -> AppliedNorm:
    dtype = torch.promote_types(next(norm.parameters()).dtype, torch.float32)
    moments = torch.empty(batch, norm.num_channels, 1, 1, 1, dtype=dtype)
    return AppliedNorm(moments, moments)


def _on_zeros(network: nn.Module, arguments: dict) -> tuple[nn.Module, dict]:
    """A copy of both with zeros in the place of fake tensors."""
    tensors = [*network.parameters(), *network.buffers(), *tree_leaves(arguments)]
    zeros = {
        id(one): torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=one.device).zero_()
        for one in tensors
        if isinstance(one, Tensor)
    }
    for weight in network.parameters():
        zeros[id(weight)] = nn.Parameter(zeros[id(weight)], requires_grad=False)
    return copy.deepcopy((network, arguments), zeros)


def _laid_out(value: Value, tag: str) -> Value:
    return value.packed() if tag == PACKED else value


class _Reached(Exception):
    """The stages would be run now, under these conditions."""

    def __init__(self, conditions: Conditions) -> None:
        super().__init__()
        self.conditions = conditions
