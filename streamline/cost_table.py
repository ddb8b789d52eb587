"""What the stages of one network take at one size: measured where it is asked for, and kept.

A stage's cost depends on its code, on the shapes of the modules it calls, and on the shapes and memory layouts
of what it reads. Stages alike in all of these are measured once; slice sizes in between are read off the line
through two measured ones, since every stage treats the elements of its axis alike. All of it is plain numbers,
so it can be kept on disk and composed (cost.py) without building a network again.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterator

from torch import nn

from .measuring import NATURAL, PACKED, Probe, Sample, Value
from .program import Axis, Program, Stage


class Table:
    """The samples of one network at one size.

    program: of the network, to be composed. batch, frames: of one call.
    values: layout of every value by name. held_bytes: what the network's forward holds around the stages, its
    arguments not counted. head: what it does before them. output_bytes: of its result.
    is_changed: whether something was measured that `data` did not have.
    """

    def __init__(self, program: Program, batch: int, frames: int, open_probe: Callable[[], Probe], data: dict) -> None:
        """open_probe: makes the network on fake tensors, which takes a second; called when something is not known.

        data: what is known, plain data to be kept; added to in place.
        """
        self.program, self.batch, self.frames = program, batch, frames
        self.is_changed = False
        self._open_probe = open_probe
        self._probe: Probe | None = None
        self._samples: dict[str, list[float]] = data.setdefault("samples", {})
        self._known: dict[tuple, Sample] = {}
        self._signatures = {stage.name: _signature(stage) for stage in program.stages}
        layouts = data.setdefault("layouts", {})
        if str(batch) not in layouts:
            layouts[str(batch)] = self._survey()
        layout = layouts[str(batch)]
        self.values = {name: Value.from_list(value) for name, value in layout["values"].items()}
        self.head = Sample.from_list(layout["head"])
        self.held_bytes = self.head.kept_bytes
        self.output_bytes = self.values[program.output].nbytes

    def whole(self, stage: Stage, packed: tuple[bool, ...]) -> Sample:
        """A stage on whole values. packed: which of them were written by sliced groups."""
        tags = "".join(
            PACKED if p or self.values[n].is_packed else NATURAL for n, p in zip(stage.reads, packed, strict=True)
        )
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
        rows = f" {self.batch}x{self.frames}" if stage.axis is Axis.PIXELS or kind == "whole" else ""
        reads = " ".join(f"{v.dtype}{v.shape[1:]}{v.order}" for v in map(self.values.__getitem__, stage.reads))
        return f"{self._signatures[stage.name]} {kind}{rows} {tags} {reads}"

    def _recall(self, name: str, take: Callable[[Probe], Sample]) -> Sample:
        if name not in self._samples:
            self._samples[name] = take(self._open()).to_list()
            self.is_changed = True
        return Sample.from_list(self._samples[name])

    def _open(self) -> Probe:
        if self._probe is None:
            self._probe = self._open_probe()
            self._probe.values = getattr(self, "values", self._probe.values)
        return self._probe

    def _survey(self) -> dict:
        """Run the whole network once, to learn the layout of every value."""
        probe = self._open()
        self.values = probe.values = dict(probe.inputs)
        seen: dict[str, Value] = {}
        for stage in self.program.stages:
            tags = "".join(PACKED if self.values[name].is_packed else NATURAL for name in stage.reads)
            name = self._name(stage, "whole", tags)
            if name not in seen:
                seen[name], sample = probe.survey(stage, tags)
                self._samples[name] = sample.to_list()
            self.values[stage.name] = seen[name]
        self.is_changed = True
        return {"values": {name: value.to_list() for name, value in self.values.items()}, "head": probe.head.to_list()}


def _by_chunks(few: Sample, many: Sample, low: int, high: int, rows: int, slices: int) -> Sample:
    """Memory follows the rows taken at a time, work the number of times."""
    chunk, small, large = (-(-rows // count) for count in (slices, high, low))
    peak = few.peak_bytes if large == small else few.between(many, (large - chunk) / (large - small)).peak_bytes
    work = few.work if low == high else few.between(many, (slices - low) / (high - low)).work
    return Sample(peak, few.kept_bytes, 0.0, work)


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
