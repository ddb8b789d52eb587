"""What one stage of a program takes on one slice, found by running it on tensors without data.

A stage's cost depends on its code, on the shapes of the modules it calls, and on the shapes and memory layouts
of what it reads. Stages alike in all of these are measured once; slice sizes in between are read off the line
through two measured ones, since every stage treats the elements of its axis alike. All of it is plain numbers,
so it can be kept on disk and composed (cost.py) without building a network again.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .conditions import Conditions
from .live_tensors import LiveTensors
from .moments import AppliedNorm, measure
from .networks import Family, family_of
from .program import Axis, Program, Stage
from .slicing import cut, extent, unslice, whole

INSIDE, PACKED, NATURAL = "i", "p", "n"


@dataclass(frozen=True)
class Work:
    """What a device has to do. Fractions come from reading between two measured slice sizes.

    flops: of matrix products, convolutions and attention; product_bytes: what these read and write.
    moved_bytes: what every other operator reads and writes. calls: operators launched.
    """

    flops: float = 0.0
    product_bytes: float = 0.0
    moved_bytes: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(times * value for value in astuple(self)))


@dataclass(frozen=True)
class Sample:
    """One stage on one slice.

    peak_bytes: the most it had alive at once beyond what it was given. kept_bytes: what its result holds.
    """

    peak_bytes: float
    kept_bytes: float
    work: Work

    def between(self, other: Sample, share: float) -> Sample:
        """The point at `share` on the line from here (0) to another sample (1), or beyond."""
        work = self.work * (1 - share) + other.work * share
        peak = self.peak_bytes + (other.peak_bytes - self.peak_bytes) * share
        return Sample(peak, self.kept_bytes + (other.kept_bytes - self.kept_bytes) * share, work)

    def to_list(self) -> list[float]:
        return [self.peak_bytes, self.kept_bytes, *astuple(self.work)]

    @classmethod
    def from_list(cls, numbers: list[float]) -> Sample:
        return cls(numbers[0], numbers[1], Work(*numbers[2:]))


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
        if axis is Axis.FRAMES:
            return self.shape[0]
        return self.shape[1] if len(self.shape) == 3 else self.shape[2] * self.shape[3]

    def empty(self) -> Tensor:
        """A tensor of this layout, without data where fake tensors are made."""
        strides, step = [0] * len(self.shape), 1
        for dim in reversed(self.order):
            strides[dim], step = step, step * self.shape[dim]
        return torch.empty_strided(self.shape, strides, dtype=getattr(torch, self.dtype))

    def piece(self, axis: Axis, size: int) -> Value:
        """One slice of it that is a tensor of its own."""
        if axis is Axis.FRAMES:
            shape = (size, *self.shape[1:])
        else:
            shape = (self.shape[0], size, self.shape[2]) if len(self.shape) == 3 else (*self.shape[:2], size, 1)
        return Value(shape, self.dtype, self.order)


class Meter:
    """Measures calls on tensors without data: memory by LiveTensors, work by the operators seen."""

    def __call__(self, action: Callable[[], Any]) -> tuple[Any, Sample]:
        counter = _WorkCounter()
        with torch.no_grad(), LiveTensors() as memory, counter:
            result = action()
        return result, Sample(memory.peak_bytes, memory.live_bytes, Work(*counter.totals))


class _WorkCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.totals = [0.0, 0.0, 0.0, 0.0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace == "aten" and not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            size = sum(tensor.nbytes for tensor in tensors)
            count = flop_registry.get(func._overloadpacket)
            if count is not None:
                self.totals[0] += count(*args, **kwargs, out_val=result)
                self.totals[1] += size
            elif func._overloadpacket not in _FREE:
                self.totals[2] += size
            self.totals[3] += 1
        return result


_FREE = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.new_empty}


class Table:
    """What the stages of one network take at one size, filled in as it is asked for.

    program: of the network, to be composed. batch: samples in one call.
    values: every value by name. held_bytes: what the network's forward holds around the stages. head: what it
    does before them.
    """

    def __init__(self, build: Callable[[], nn.Module], program: Program, size: tuple[int, ...], data: dict) -> None:
        """build: makes the network on fake tensors; called only when something is not known yet.

        size: batch, frames, height and width in latent pixels. data: what was known before, changed in place.
        """
        self.program = program
        self.batch = size[0]
        self.is_changed = False
        self._size = size
        self._build = build
        self._probe: _Probe | None = None
        self._data = data
        self._samples: dict[str, list[float]] = data.setdefault("samples", {})
        self._known: dict[tuple, Sample] = {}
        signatures = [_signature(stage) for stage in program.stages]
        self._signatures = {stage.name: text for stage, text in zip(program.stages, signatures, strict=True)}
        if "values" not in data:
            self._survey()
        self.values = {name: Value(tuple(s), d, tuple(o)) for name, (s, d, o) in data["values"].items()}
        self.held_bytes: int = data["held_bytes"]
        self.output_bytes: int = data["output_bytes"]
        self.head = Sample.from_list(data["head"])

    def whole(self, stage: Stage, packed: tuple[bool, ...]) -> Sample:
        """A stage on whole values. packed: which of them were written by sliced groups."""
        tags = "".join(PACKED if p or self.values[n].is_packed else NATURAL for n, p in zip(stage.reads, packed, strict=True))
        key = (stage.name, tags)
        if key not in self._known:
            self._known[key] = self._recall(self._name(stage, "whole", tags), lambda probe: probe.whole(stage, tags))
        return self._known[key]

    def slice(self, stage: Stage, tags: str, size: int) -> Sample:
        """A stage on a slice of `size` elements of its axis.

        tags: for each value read, whether it was made within the slice (i), or is cut from a whole value that
        lies packed in memory (p) or as the unsliced network leaves it (n).
        """
        key = (stage.name, tags, size)
        if key not in self._known:
            self._known[key] = self._line(stage, self._plain(stage, tags), size)
        return self._known[key]

    def norm(self, stage: Stage, packed: bool, slices: int) -> Sample:
        """Taking the moments of what a stage normalises, so many rows at a time."""
        rows = self.values[stage.reads[0]].shape[0]
        slices = min(slices, rows)
        key = (stage.name, "norm", packed, slices)
        if key not in self._known:
            packed = packed or self.values[stage.reads[0]].is_packed
            low, high = min(2, rows), min(8, rows)
            few, many = (
                self._recall(self._name(stage, f"norm {count}", PACKED if packed else NATURAL),
                             lambda probe, count=count: probe.norm(stage, packed, count))
                for count in (low, high)
            )  # fmt: skip
            self._known[key] = _by_chunks(few, many, low, high, rows, slices)
        return self._known[key]

    def _plain(self, stage: Stage, tags: str) -> str:
        """Tags of the same tensors fewer kinds: a slice of rows of a packed value is packed too."""
        if stage.axis is not Axis.FRAMES:
            return "".join(
                PACKED if tag == NATURAL and self.values[name].is_packed else tag
                for name, tag in zip(stage.reads, tags, strict=True)
            )
        return "".join(
            PACKED if tag != PACKED and self.values[name].is_packed else tag
            for name, tag in zip(stage.reads, tags, strict=True)
        )

    def _line(self, stage: Stage, tags: str, size: int) -> Sample:
        full = self.values[stage.reads[0]].extent(stage.axis)
        if stage.axis is Axis.FRAMES:
            # One row is a case of its own: its place in memory is any layout's.
            ends = (1, 1) if size == 1 else (2, max(3, full // 2))
        else:
            ends = (max(1, full // 32), max(2, full // 2))
        ends = (size, size) if size in ends else ends
        low, high = (
            self._recall(self._name(stage, f"slice {end}", tags), lambda probe, end=end: probe.slice(stage, tags, end))
            for end in ends
        )
        return low if ends[0] == ends[1] else low.between(high, (size - ends[0]) / (ends[1] - ends[0]))

    def _name(self, stage: Stage, kind: str, tags: str) -> str:
        """What the sample depends on, written out: shapes are those of what the stage reads."""
        batch = "" if stage.axis is Axis.FRAMES else f" of {self.batch} x {self.values_frames}"
        reads = " ".join(f"{self.values[n].dtype}{list(self.values[n].shape[0 if batch or kind == 'whole' else 1:])}"
                         f"{list(self.values[n].order)}" for n in stage.reads)  # fmt: skip
        return f"{self._signatures[stage.name]} {kind}{batch} {tags} {reads}"

    @property
    def values_frames(self) -> int:
        return self._size[1]

    def _recall(self, name: str, take: Callable[[_Probe], Sample]) -> Sample:
        if name not in self._samples:
            self._samples[name] = take(self._open()).to_list()
            self.is_changed = True
        return Sample.from_list(self._samples[name])

    def _open(self) -> _Probe:
        if self._probe is None:
            self._probe = _Probe(self._build(), self._size)
            self._probe.values = getattr(self, "values", {})
        return self._probe

    def _survey(self) -> None:
        """Run the whole network once, to learn the layout of every value."""
        probe = self._open()
        self.values = probe.values = {name: Value.of(probe.inputs[name]) for name in self.program.inputs}
        seen: dict[str, Value] = {}
        for stage in self.program.stages:
            tags = "".join(PACKED if self.values[name].is_packed else NATURAL for name in stage.reads)
            name = self._name(stage, "whole", tags)
            if name not in seen:
                seen[name], sample = probe.survey(stage, tags)
                self._samples[name] = sample.to_list()
            self.values[stage.name] = seen[name]
        self._data["values"] = {name: [list(v.shape), v.dtype, list(v.order)] for name, v in self.values.items()}
        self._data["held_bytes"], self._data["head"] = probe.held_bytes, probe.head.to_list()
        self._data["output_bytes"] = self.values[self.program.output].nbytes
        self.is_changed = True


def _by_chunks(few: Sample, many: Sample, low: int, high: int, rows: int, slices: int) -> Sample:
    """Memory follows the rows taken at a time, work the number of times."""
    chunk, small, large = (-(-rows // count) for count in (slices, high, low))
    peak = few.peak_bytes if large == small else few.between(many, (large - chunk) / (large - small)).peak_bytes
    work = few.work if low == high else few.between(many, (slices - low) / (high - low)).work
    return Sample(peak, few.kept_bytes, work)


class _Probe:
    """A network on fake tensors, whose stages can be run one by one."""

    def __init__(self, network: nn.Module, size: tuple[int, ...]) -> None:
        from .tracing import cast_arguments  # tracing needs apply, which needs executor: not at import

        self._mode = fake_mode_of(network)
        family: Family = family_of(network)
        self.meter = Meter()
        self.values: dict[str, Value] = {}
        dtype = next(network.parameters()).dtype

        with self._mode, torch.no_grad():
            arguments = cast_arguments(family.example(network, *size), dtype)
            self._stages = {stage.name: stage for stage in family.lower(network).stages}
            memory = LiveTensors([network])

            def stop(values: dict[str, Tensor], conditions: Conditions) -> Tensor:
                self.inputs, self.conditions = values, conditions
                self.held_bytes, peak = memory.live_bytes, memory.peak_bytes
                self.head = Sample(peak, memory.live_bytes, Work(*counter.totals))
                raise _Reached

            counter = _WorkCounter()
            try:
                with memory, counter:
                    family.forward(network, stop, **arguments)
            except _Reached:
                pass

    def survey(self, stage: Stage, tags: str) -> tuple[Value, Sample]:
        result, sample = self._whole(stage, tags)
        return Value.of(result), sample

    def whole(self, stage: Stage, tags: str) -> Sample:
        return self._whole(stage, tags)[1]

    def _whole(self, stage: Stage, tags: str) -> tuple[Tensor, Sample]:
        stage = self._stages[stage.name]
        with self._mode:
            values = [self._value(name, tag) for name, tag in zip(stage.reads, tags, strict=True)]
            norm = () if stage.norm is None else (stage.norm,)
            slices = [whole(stage.axis, value) for value in values]
            return self.meter(
                lambda: unslice(stage.axis, stage.run(*norm, self.conditions, *slices), values[0])
            )

    def slice(self, stage: Stage, tags: str, size: int) -> Sample:
        stage = self._stages[stage.name]
        with self._mode:
            slices = []
            for name, tag in zip(stage.reads, tags, strict=True):
                if tag == INSIDE:
                    slices.append(self.values[name].piece(stage.axis, size).empty())
                else:
                    slices.append(cut(stage.axis, self._value(name, tag), 0, size))
            norm = () if stage.norm is None else (self._applied(stage.norm),)
            conditions = self.conditions.slice_rows(0, size) if stage.axis is Axis.FRAMES else self.conditions
            return self.meter(lambda: stage.run(*norm, conditions, *slices))[1]

    def norm(self, stage: Stage, packed: bool, slices: int) -> Sample:
        stage = self._stages[stage.name]
        with self._mode:
            value = self._value(stage.reads[0], PACKED if packed else NATURAL)
            return self.meter(lambda: measure(stage.norm, value, self.conditions.batch, slices))[1]

    def _value(self, name: str, tag: str) -> Tensor:
        value = self.values[name]
        return (value.packed() if tag == PACKED else value).empty()

    def _applied(self, norm: nn.GroupNorm) -> AppliedNorm:
        dtype = torch.promote_types(next(norm.parameters()).dtype, torch.float32)
        moments = torch.empty(self.conditions.batch, norm.num_channels, 1, 1, 1, dtype=dtype)
        return AppliedNorm(moments, moments)


class _Reached(Exception):
    """The stages would be run now."""


def fake_mode_of(network: nn.Module) -> FakeTensorMode:
    """The mode a network on fake tensors was made in."""
    return next(network.parameters()).fake_mode


def _signature(stage: Stage) -> str:
    """The code of a stage and the modules it calls, as text: stages alike in it cost the same on like values."""
    text = "|".join([*_describe(stage.run), *(_describe(stage.norm) if stage.norm is not None else ())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(thing: object) -> Iterator[str]:
    if isinstance(thing, nn.Module):
        for name, module in thing.named_modules():
            plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, bool, tuple))}
            shapes = [(k, tuple(p.shape), p.dtype) for k, p in module.named_parameters(recurse=False)]
            yield f"{name} {type(module).__qualname__} {sorted(plain.items())} {shapes}"
    elif isinstance(thing, types.FunctionType):
        yield f"{thing.__module__}:{thing.__code__.co_firstlineno}"
        for cell in thing.__closure__ or ():
            yield from _describe(cell.cell_contents)
        for value in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
            yield from _describe(value)
    elif thing is None or isinstance(thing, (int, float, str, tuple)):
        yield repr(thing)
    else:
        yield type(thing).__qualname__
