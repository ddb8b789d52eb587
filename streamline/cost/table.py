"""What the stages of one network take at one size: measured where it is asked for, and kept.

A stage's cost depends on its kind, on the shapes of the modules it calls, and on the shapes and memory layouts
of what it reads. Stages alike in all of these are measured once; slice sizes in between are read off the line
through two measured ones, since every stage treats the elements of its axis alike. All of it is plain numbers,
so it can be kept on disk and composed (network_cost.py) without building a network again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

from torch import nn

from ..program.casting import HOOK, cast_layers, size_of
from ..program.stages import Program, Stage
from ..program.weights import stage_weights
from .measuring import INSIDE, NATURAL, PACKED, Probe, Sample, Value, Work


class Table:
    """The samples of one network at one size.

    program: of the network, to be composed. batch, frames: of one call.
    values: layout of every value by name. held_bytes: what the network's forward holds around the stages, its
    arguments not counted. head: what it does before them. output_bytes: of its result.
    is_changed: whether something was measured that `data` did not have.
    cast_bytes: of the largest layer whose weights are cast as it is called, as they are then.
    outcomes: of groups that were followed (network_cost.py), by what they depend on.
    """

    def __init__(
        self,
        program: Program,
        batch: int,
        frames: int,
        open_probe: Callable[[], Probe],
        data: dict,
        other_weights_bytes: int = 0,
        measuring: AbstractContextManager | None = None,
    ) -> None:
        """open_probe: makes the network on fake tensors, which takes a second; called when something is not known.

        measuring: held while something is measured.
        data: what is known, plain data to be kept; added to in place. other_weights_bytes: of weights that no stage
        uses.
        """
        self.program, self.batch, self.frames = program, batch, frames
        self.other_weights_bytes = other_weights_bytes
        layers = cast_layers(module for stage in program.stages for module in stage.of)
        self.cast_bytes = max((size_of(layer) * _compute_size(layer) for layer in layers), default=0)
        self.is_changed = False
        self.outcomes: dict[tuple, tuple] = {}
        self._weights: dict[str, dict[int, int]] = {}
        self._open_probe, self._measuring = open_probe, measuring or nullcontext()
        self._probe: Probe | None = None
        self._samples: dict[str, list[float]] = data.setdefault("samples", {})
        self._known: dict[tuple, Sample] = {}
        self._keys = {stage.name: key_of(stage) for stage in program.stages}
        self._layout: dict = data.setdefault("layouts", {}).setdefault(str(batch), {})
        if "head" not in self._layout:
            with self._measuring:
                self._layout["head"] = self._open().head.to_list()
            self.is_changed = True
        self.head = Sample.from_list(self._layout["head"])
        self.held_bytes = self.head.kept_bytes

    @cached_property
    def values(self) -> dict[str, Value]:
        if "values" not in self._layout:
            with self._measuring:
                self._layout["values"] = {name: value.to_list() for name, value in self._survey().items()}
            self.is_changed = True
        return {name: Value.from_list(value) for name, value in self._layout["values"].items()}

    @property
    def output_bytes(self) -> int:
        return self.values[self.program.output].nbytes

    def whole(self, stage: Stage, packed: tuple[bool, ...]) -> Sample:
        """Return what a stage takes on whole values. packed: which of them were written by sliced groups."""
        key = (stage.name, packed)
        if key not in self._known:
            reads = self._reads(stage)
            tags = "".join(PACKED if p or value.is_packed else NATURAL for value, p in zip(reads, packed, strict=True))
            self._known[key] = self._recall(
                self._name(stage, reads, "whole", tags), lambda probe: probe.whole(stage.name, reads, tags)[1]
            )
        return self._known[key]

    def slice(self, stage: Stage, tags: str, size: int, around: tuple[int, int] = (0, 0)) -> Sample:
        """Return what a stage takes on a slice of `size` elements of its axis.

        tags: for each value read INSIDE, PACKED or NATURAL. around: how many elements there are before and after it,
        as far as a halo could reach.
        """
        halo = max(stage.halo.values(), default=0)
        around = min(halo, around[0]), min(halo, around[1])
        key = (stage.name, tags, size, around)
        if key not in self._known:
            reads = self._reads(stage)
            # Of these layouts, some are the same: a slice of the rows of a packed value is packed by itself.
            alike = (NATURAL, INSIDE) if stage.axis.cuts_rows else (NATURAL,)
            pairs = zip(reads, tags, strict=True)
            tags = "".join(PACKED if tag in alike and value.is_packed else tag for value, tag in pairs)
            low, high = ends = self._ends(stage, size)
            first, last = (
                self._recall(
                    self._name(stage, reads, f"slice {end}" + (f" around {around}" if halo else ""), tags),
                    lambda probe, end=end: probe.slice(stage.name, reads, tags, end, around),
                )
                for end in ends
            )
            self._known[key] = first if low == high else first.between(last, (size - low) / (high - low))
        return self._known[key]

    def weights_of(self, stages: Sequence[Stage]) -> dict[int, int]:
        """Return bytes of every tensor that stages use as weights, by its identity."""
        for stage in stages:
            if stage.name not in self._weights:
                self._weights[stage.name] = {id(tensor): tensor.nbytes for tensor in stage_weights([stage])}
        return {tensor: size for stage in stages for tensor, size in self._weights[stage.name].items()}

    def recast_bytes(self, stages: Sequence[Stage]) -> int:
        """Return bytes of weights that are there a second time once they were cast and back,
        where a first copy of them is kept."""
        layers = cast_layers(module for stage in stages for module in stage.of)
        return sum(size_of(layer) * next(layer.parameters()).itemsize for layer in layers)

    def casting(self, stages: Sequence[Stage]) -> Work:
        """Return what it takes to cast the weights of stages and back, once."""
        work = Work()
        for layer in cast_layers(module for stage in stages for module in stage.of):
            width = _compute_size(layer) + next(layer.parameters()).itemsize
            work += Work(moved_bytes=2 * width * size_of(layer), calls=2 * len(list(layer.parameters())))
        return work

    def norm(self, stage: Stage, packed: bool, slices: int) -> Sample:
        """Taking the moments of what a stage normalises, in so many slices of rows."""
        value = self.values[stage.reads[0]]
        rows = value.shape[0]
        key = (stage.name, "norm", packed, min(slices, rows))
        if key not in self._known:
            tag = PACKED if packed or value.is_packed else NATURAL
            low, high = min(2, rows), min(8, rows)
            few, many = (
                self._recall(
                    self._name(stage, [value], f"norm {count}", tag),
                    lambda probe, count=count: probe.norm(stage.name, value, tag, count),
                )
                for count in (low, high)
            )
            self._known[key] = _by_chunks(few, many, low, high, rows, min(slices, rows))
        return self._known[key]

    def moments(self, stage: Stage, size: int) -> Sample:
        """Taking the moments of what a stage normalises, of which one slice has `size` pixels."""
        value = self.values[stage.reads[0]]
        low, high = ends = self._ends(stage, size)
        first, last = (
            self._recall(
                self._name(stage, [value], f"moments {end}", PACKED),
                lambda probe, end=end: probe.moments(stage.name, value, end),
            )
            for end in ends
        )
        return first if low == high else first.between(last, (size - low) / (high - low))

    def _ends(self, stage: Stage, size: int) -> tuple[int, int]:
        """The measured slice sizes that another one is read off from; twice the same if it is measured itself."""
        if not stage.axis.cuts_rows:
            extent = self.values[stage.along].extent(stage.axis)
            ends = (max(1, extent // 32), max(2, extent // 2))
        else:
            ends = (2, max(3, self.frames // 2))
        # One row is a case of its own: it is packed, whatever the layout it is cut from.
        is_measured = size in ends or (size == 1 and stage.axis.cuts_rows)
        return (size, size) if is_measured else ends

    def _reads(self, stage: Stage) -> list[Value]:
        return [self.values[name] for name in stage.reads]

    def _name(self, stage: Stage, reads: list[Value], kind: str, tags: str) -> str:
        """What the sample depends on, written out."""
        rows = "" if stage.axis.cuts_rows and kind != "whole" else f" {self.batch}x{self.frames}"
        if stage.beyond:  # how much of each value it is given
            pairs = zip(stage.reads, reads, strict=False)
            given = ("whole" if name in stage.whole else stage.halo.get(name, 0) for name, _ in pairs)
            rows += f" {list(given)} of {[value.shape[0] for value in reads]}"
        layouts = " ".join(f"{value.dtype}{value.shape[1:]}{value.order}" for value in reads)
        return f"{self._keys[stage.name]} {kind}{rows} {tags} {layouts}"

    def _recall(self, name: str, take: Callable[[Probe], Sample]) -> Sample:
        if name not in self._samples:
            with self._measuring:
                self._samples[name] = take(self._open()).to_list()
            self.is_changed = True
        return Sample.from_list(self._samples[name])

    def _open(self) -> Probe:
        if self._probe is None:
            self._probe = self._open_probe()
        return self._probe

    def _survey(self) -> dict[str, Value]:
        """Run the whole network once, to learn the layout of every value."""
        probe = self._open()
        values = dict(probe.inputs)
        seen: dict[str, Value] = {}
        for stage in self.program.stages:
            reads = [values[name] for name in stage.reads]
            tags = "".join(PACKED if value.is_packed else NATURAL for value in reads)
            name = self._name(stage, reads, "whole", tags)
            if name not in seen:
                seen[name], sample = probe.whole(stage.name, reads, tags)
                self._samples[name] = sample.to_list()
            values[stage.name] = seen[name]
        return values


def _compute_size(layer: nn.Module) -> int:
    """Bytes of a number that a layer computes with whose weights are cast."""
    return layer._diffusers_hook.get_hook(HOOK).compute_dtype.itemsize


def _by_chunks(few: Sample, many: Sample, low: int, high: int, rows: int, slices: int) -> Sample:
    """Memory follows the rows taken at a time, work the number of times."""
    chunk, small, large = (-(-rows // count) for count in (slices, high, low))
    peak = few.peak_bytes if large == small else few.between(many, (large - chunk) / (large - small)).peak_bytes
    work = few.work if low == high else few.between(many, (slices - low) / (high - low)).work
    return Sample(peak, few.kept_bytes, 0.0, work)


def key_of(stage: Stage) -> str:
    """Return what the cost of a stage depends on beside what it reads: its kind, and what the modules it calls are."""
    parts = [stage.kind, *(_describe(module) for module in (stage.norm, *stage.of) if module is not None)]
    return hashlib.sha256(" | ".join(parts).encode()).hexdigest()[:16]


def _describe(module: nn.Module) -> str:
    """The classes of a module and all within it, their plain attributes and the shapes of their weights."""
    parts = []
    for name, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, (int, float, str, bool, tuple))}
        shapes = [(k, tuple(p.shape), p.dtype) for k, p in part.named_parameters(recurse=False)]
        parts.append(f"{name} {type(part).__qualname__} {sorted(plain.items())} {shapes}")
    return "; ".join(parts)
