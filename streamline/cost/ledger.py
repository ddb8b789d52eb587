"""What a group of stages takes: the other back end of the walk that runs it (program/walk.py), with sizes for tensors.

What lives at the same time adds up, and what stages take is the table's. Nothing is run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..program.axes import FRAMES, Axis
from ..program.groups import Group
from ..program.slicing import bounds
from ..program.stages import Stage
from ..program.walk import carry_through
from .measuring import INSIDE, NATURAL, PACKED, Sample, Value, Work
from .table import Table

Bounds = list[tuple[int, int]]
Kind = tuple[int, tuple[int, int]]  # of a slice: its size, and how many elements more its stages see on each side


@dataclass(frozen=True)
class State:
    """A value that is alive.

    nbytes: what it holds on the device. packed: whether it lies so in memory. owned: it belongs to the walk.
    pieces: the rows of each of its pieces, for one that is kept by rows. on_host: in host memory.
    """

    nbytes: float
    packed: bool
    owned: bool
    pieces: tuple[tuple[int, int], ...] | None = None
    on_host: bool = False

    def ending(self, start: int, stop: int) -> float:
        """Return bytes on the device of the pieces that end within some rows."""
        if self.pieces is None:
            return 0.0
        return self.nbytes * sum(b - a for a, b in self.pieces if start < b <= stop) / self.pieces[-1][1]

    def is_copied(self, axis: Axis, start: int, stop: int) -> bool:
        """Return whether a slice of it is a tensor of its own."""
        if self.pieces is None:
            return False
        is_one = any(a <= start and stop <= b for a, b in self.pieces) if axis.cuts_rows else len(self.pieces) == 1
        return self.on_host or not is_one


class Ledger:
    """One group's worth of a walk; methods as in `walk.Backend`. A slice carried is what it took, a Sample.

    values: that are alive. peak_bytes: the most that was. largest_convolution_bytes, work: of all that was run.
    """

    def __init__(self, table: Table, values: dict[str, State]) -> None:
        self.values = values
        self.largest_convolution_bytes, self.work = 0.0, Work()
        self._table, self._shapes = table, table.values
        self._live = self.peak_bytes = sum(state.nbytes for state in values.values())
        self._pieces: Bounds = []
        self._kinds: dict[tuple[int, int], Kind] = {}  # of every piece
        self._carried: dict[tuple, Sample] = {}
        self._at, self._carried_bytes = (0, 0), 0.0  # of the slice that is carried now
        self._works: dict[tuple[int, int], Work] = {}
        self._moments_bytes = 0.0
        self._outputs: dict[str, State] = {}

    def extent(self, name: str, axis: Axis) -> int:
        return self._shapes[name].extent(axis)

    def gather(self, name: str) -> None:
        state, size = self.values[name], self._shapes[name].nbytes
        if state.pieces is not None:
            is_copied = state.on_host or len(state.pieces) > 1
            self._note(size if is_copied else 0)
            self._live += size - state.nbytes
            self.values[name] = State(size, True, True)

    def free(self, names: Iterable[str]) -> None:
        for name in names:
            self._live -= self.values.pop(name).nbytes

    def run_whole(self, stage: Stage) -> None:
        sample = self._table.whole(stage, tuple(self.values[name].packed for name in stage.reads))
        self._note(sample.peak_bytes)
        self.largest_convolution_bytes = max(self.largest_convolution_bytes, sample.largest_convolution_bytes)
        self.work += sample.work
        self._live += sample.kept_bytes
        self.values[stage.name] = State(sample.kept_bytes, self._shapes[stage.name].is_packed, False)

    def measure(self, stage: Stage, slices: int) -> None:
        state, shape = self.values[stage.reads[0]], self._shapes[stage.reads[0]]
        moments = self._table.norm(stage, state.packed, slices)
        rows = shape.shape[0]
        copied = max((b - a for a, b in bounds(rows, slices) if state.is_copied(FRAMES, a, b)), default=0)
        self._note(moments.peak_bytes + copied * shape.nbytes / rows)
        self._live += moments.kept_bytes
        self.work += moments.work
        self._send([stage.reads[0]], self.values)

    def pieces(self, group: Group, pieces: Bounds) -> Bounds:
        """Return the first slice, and one of every kind of those that follow,
        where nothing grows or shrinks meanwhile."""
        self._pieces, extent = pieces, self.extent(group.along, group.axis)
        self._kinds = {(start, stop): (stop - start, group.around(start, stop, extent)) for start, stop in pieces}
        if group.axis.cuts_rows and group.keep != "whole":
            return pieces
        return [pieces[0], *{self._kinds[piece]: piece for piece in pieces[1:]}.values()]

    def carry(self, group: Group, start: int, stop: int, until: int | None = None) -> Sample:
        names = group.needs(until)
        copied = frozenset(name for name in names if self.values[name].is_copied(group.axis, start, stop))
        key = (self._kinds[start, stop], until, copied)
        if key not in self._carried:
            self._carried[key] = self._follow(group, *key)
        carried = self._carried[key]
        self._note(carried.peak_bytes)
        self.largest_convolution_bytes = max(self.largest_convolution_bytes, carried.largest_convolution_bytes)
        self._at, self._carried_bytes = (start, stop), carried.kept_bytes
        self._works[self._at] = carried.work
        return carried

    def add_moments(self, stage: Stage, carried: Sample) -> None:
        start, stop = self._at
        moments = self._table.moments(stage, stop - start)
        self._note(carried.kept_bytes + moments.peak_bytes)
        self._works[self._at] += moments.work
        self._moments_bytes = moments.kept_bytes

    def finish_moments(self, group: Group, stage: Stage) -> None:
        self._add_works(are_alike=True)
        self._live += self._moments_bytes
        self._send(group.reads, self.values)

    def consume(self, name: str, start: int, stop: int) -> None:
        self._live -= self.values[name].ending(start, stop)

    def can_hold(self, group: Group, other: str, name: str, carried: Sample) -> bool:
        state, like, value = self.values[other], self._shapes[other], self._shapes[name]
        is_ours = state.owned if group.keep == "whole" else state.pieces is not None
        return is_ours and like.dtype == value.dtype and _fits(group.axis, value, like)

    def make_room(self, group: Group, name: str, over: str | None, carried: Sample) -> None:
        shape, way = self._shapes[name], group.kept_as(name)
        if over is not None and way == "rows":
            self._outputs[name] = self.values[over]
        elif way == "pieces":  # which it grows by
            on_host = group.keep == "host"
            self._outputs[name] = State(0 if on_host else shape.nbytes, True, True, tuple(self._pieces), on_host)
        else:
            rows = tuple((row, row + 1) for row in range(shape.shape[0])) if way == "rows" else None
            self._outputs[name] = State(shape.nbytes, True, True, rows)
            self._live += shape.nbytes if over is None else 0

    def write(self, group: Group, name: str, start: int, stop: int, carried: Sample) -> None:
        """Count what a slice takes: of what grows by it there is a copy then, and the slice itself goes,
        which is as large."""
        is_growing = group.kept_as(name) == "pieces"
        grown = self._outputs[name].ending(start, stop) if is_growing else 0.0
        self._note(self._carried_bytes + grown)
        self._live += grown
        self._carried_bytes -= grown

    def close(self, group: Group) -> None:
        self._add_works(are_alike=group.keep == "whole")
        written = sum(self._shapes[name].nbytes for name in group.writes)
        self.work += Work(0, 0, 2 * written, len(self._pieces) * len(group.writes))
        self._send(group.reads, self.values)
        self._send(group.writes, self._outputs)
        for name in group.dead:
            del self.values[name]
        self.values.update(self._outputs)

    def _follow(self, group: Group, kind: Kind, until: int | None, copied: frozenset[str]) -> Sample:
        """One slice through all stages, or those before `until`. copied: what it reads as tensors of its own."""
        size, around = kind
        local = {name: self._shapes[name].nbytes * size / self._shapes[name].extent(group.axis) for name in copied}
        peak, convolution, work = 0.0, 0.0, Work()

        def run(stage: Stage) -> float:
            nonlocal peak, convolution, work
            tags = "".join(
                INSIDE if name in local else PACKED if self.values[name].packed else NATURAL for name in stage.reads
            )
            sample = self._table.slice(stage, tags, size, around)
            peak = max(peak, sum(local.values()) + sample.peak_bytes)
            convolution = max(convolution, sample.largest_convolution_bytes)
            work += sample.work
            return sample.kept_bytes

        carry_through(group, until, local, run)
        return Sample(peak, sum(local.values()), convolution, work)

    def _note(self, more: float) -> None:
        """So much is alive beside the values."""
        self.peak_bytes = max(self.peak_bytes, self._live + more)

    def _add_works(self, are_alike: bool) -> None:
        """Of every slice; those that were not carried are like one of their kind that was."""
        known = {self._kinds[piece]: work for piece, work in self._works.items()}
        works = [self._works.get(piece) or known[self._kinds[piece]] for piece in self._pieces]
        if are_alike:
            works = [work * count for work, count in Counter(works).items()]
        self.work = sum(works, self.work)

    def _send(self, names: Iterable[str], states: Mapping[str, State]) -> None:
        """Values that cross to or from host memory, once."""
        sent = sum(self._shapes[name].nbytes for name in names if states[name].on_host)
        self.work += Work(sent_bytes=sent)


def _fits(axis: Axis, value: Value, other: Value) -> bool:
    """As tensors compare slices."""
    size = value.extent(axis)
    return size == other.extent(axis) and axis.piece(value.shape, size) == axis.piece(other.shape, size)
