"""What a group takes whose values are kept row by row (program/by_rows.py), followed slice by slice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..program.groups import Group
from ..program.slicing import bounds
from ..program.stages import Axis
from .measuring import Sample, Value, Work

if TYPE_CHECKING:
    from .network_cost import Held

Pieces = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class State:
    """A value that is alive.

    nbytes: what it holds on the device. packed: whether it lies so in memory. owned: it belongs to the executor.
    pieces: the rows of each of its pieces, for one that is kept by rows. on_host: in host memory.
    """

    nbytes: float
    packed: bool
    owned: bool
    pieces: Pieces | None = None
    on_host: bool = False

    def left(self, stop: int) -> float:
        """What is held once the pieces that end at or before a row are freed."""
        rows = self.pieces[-1][1]
        return self.nbytes * sum(b - a for a, b in self.pieces if b > stop) / rows

    def is_copied(self, axis: Axis, start: int, stop: int) -> bool:
        """Whether a slice of it is a tensor of its own."""
        if self.pieces is None:
            return False
        is_one = any(a <= start and stop <= b for a, b in self.pieces) if axis is Axis.FRAMES else len(self.pieces) == 1
        return self.on_host or not is_one


def run_by_rows(held: Held, group: Group) -> tuple[float, float, Work]:
    """Peak bytes, the largest convolution and the work of one group; `held` is what is alive, before and after."""
    table, values = held.table, held.values
    shape = table.values[group.reads[0]]
    extent = shape.extent(group.axis)
    pieces = bounds(extent, group.slices)
    live, peak, work = held.live_bytes, held.live_bytes, Work()
    first = group.stages[0]
    if first.norm is not None:
        state, size = values[first.reads[0]], table.values[first.reads[0]]
        moments = table.norm(first, state.packed, len(pieces))
        copied = max(
            (b - a for a, b in bounds(size.shape[0], len(pieces)) if state.is_copied(Axis.FRAMES, a, b)), default=0
        )
        peak = live + moments.peak_bytes + copied * size.nbytes / size.shape[0]
        work, live = work + moments.work + _sent(state, size), live + moments.kept_bytes
    if group.again is not None:
        second = group.stages[group.again]
        for size, count in Counter(stop - start for start, stop in pieces).items():
            copied = frozenset(name for name in group.reads if values[name].is_copied(group.axis, 0, size))
            part = held.slice(group, size, stop=group.again, copied=copied)
            moments = table.moments(second, size)
            inside = part.kept_bytes + moments.peak_bytes
            peak = max(peak, live + part.peak_bytes, live + inside)
            work += (part.work + moments.work) * count
        live += moments.kept_bytes
        work += sum((_sent(values[name], table.values[name]) for name in group.reads), Work())

    places = {name: _place(held, group, name) for name in group.writes}
    grows = {name for name, place in places.items() if place is _GROWING}
    new = sum(table.values[name].nbytes for name, place in places.items() if place is _WHOLE)
    fixed = live - sum(values[name].nbytes for name in _shrinking(held, group))
    convolution = 0.0
    alike: dict[tuple, Sample] = {}
    for start, stop in pieces:
        size = stop - start
        copied = frozenset(name for name in group.reads if values[name].is_copied(group.axis, start, stop))
        if (size, copied) not in alike:
            alike[size, copied] = held.slice(group, size, copied=copied)
        one = alike[size, copied]
        convolution = max(convolution, one.largest_convolution_bytes)
        work += one.work
        written = start / extent * sum(table.values[name].nbytes for name in grows if group.keep != "host")
        around = fixed + written + (new if start else 0)
        before = sum(values[name].left(start) for name in _shrinking(held, group))
        after = sum(values[name].left(stop) for name in _shrinking(held, group))
        copied = max((table.values[name].nbytes * size / extent for name in grows), default=0)
        copied = 0 if group.keep == "host" else copied
        peak = max(peak, around + before + one.peak_bytes, fixed + written + new + after + one.kept_bytes + copied)
    sizes = {name: table.values[name] for name in group.writes}
    work += Work(0, 0, 2 * sum(size.nbytes for size in sizes.values()), len(pieces) * len(sizes))
    work += sum((_sent(values[name], table.values[name]) for name in group.reads), Work())

    made = {}
    for name, place in places.items():
        size = sizes[name]
        if place is _WHOLE:
            is_final = name in held.final
            rows = None if is_final else tuple((row, row + 1) for row in range(size.shape[0]))
            made[name] = State(size.nbytes, True, True, rows)
        elif place is _GROWING:
            is_host = group.keep == "host"
            made[name] = State(0 if is_host else size.nbytes, True, True, tuple(pieces), is_host)
        else:
            made[name] = values[place]
        work += _sent(made[name], size)
    for name in group.dead:
        del values[name]
    values.update(made)
    return peak, convolution, work


_WHOLE, _GROWING = object(), object()


def _place(held: Held, group: Group, name: str) -> object:
    """Where an output goes: a new tensor, pieces that are added one by one, or over an input, which is named."""
    if name in held.final:
        return _WHOLE
    if group.axis is Axis.FRAMES:
        return _GROWING
    value = held.table.values[name]
    for other in group.reads:
        like = held.table.values[other]
        alike = like.dtype == value.dtype and like.extent(Axis.PIXELS) == value.extent(Axis.PIXELS)
        alike = alike and len(like.shape) == len(value.shape) and _channels(like) == _channels(value)
        if other in group.dead and held.values[other].pieces is not None and alike:
            return other
    return _WHOLE


def _channels(value: Value) -> int:
    return value.shape[2] if len(value.shape) == 3 else value.shape[1]


def _shrinking(held: Held, group: Group) -> list[str]:
    if group.axis is Axis.PIXELS:
        return []
    return [name for name in group.dead if held.values[name].pieces is not None]


def _sent(state: State, size: Value) -> Work:
    """Crossing to or from host memory once."""
    return Work(sent_bytes=size.nbytes) if state.on_host else Work()
