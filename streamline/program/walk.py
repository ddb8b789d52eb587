"""One walk over a group of stages: slice by slice, or stage by stage, with moments taken first and values freed last.

What is carried is the back end's: tensors where the group is run (tensors.py), sizes where it is only asked what it
would take (cost/ledger.py). When something is read, made, written or freed is decided here, once for both.

A second norm in a group of pixels looks at what the stages before it make of every pixel. That is computed twice, once
for the moments and once to go on with, and never kept: SVD's temporal resnets hold one whole value and not two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from .axes import Axis
from .groups import Group
from .slicing import bounds
from .stages import Stage

T = TypeVar("T")
Slice = TypeVar("Slice")
Bounds = list[tuple[int, int]]


class Backend(Protocol[Slice]):
    """The values that are alive, by name, and what is done with them. A Slice is one slice of some of them.

    extent: elements that an axis has in a value. gather: make one tensor of a value that is kept by rows.
    free: let go of values. run_whole: run a stage on whole values.
    measure: take the moments of what a stage normalises, which is whole, in so many slices of rows.
    pieces: those of a group's slices that have to be carried, all of them where it is run.
    carry: take a slice through the stages of a group, or those before `until`, and return what is left of it.
    add_moments: add those of a slice of what a stage normalises. finish_moments: all slices were seen.
    consume: free the pieces of a value that end within these rows, if it is kept in pieces.
    can_hold: whether an output fits over a dead input, which is nobody else's.
    make_room: for an output, over an input or in new memory. write: one slice of an output.
    close: let outputs take the place of the inputs that are dead.
    """

    def extent(self, name: str, axis: Axis) -> int: ...
    def gather(self, name: str) -> None: ...
    def free(self, names: Iterable[str]) -> None: ...
    def run_whole(self, stage: Stage) -> None: ...
    def measure(self, stage: Stage, slices: int) -> None: ...
    def pieces(self, group: Group, pieces: Bounds) -> Bounds: ...
    def carry(self, group: Group, start: int, stop: int, until: int | None = None) -> Slice: ...
    def add_moments(self, stage: Stage, carried: Slice) -> None: ...
    def finish_moments(self, group: Group, stage: Stage) -> None: ...
    def consume(self, name: str, start: int, stop: int) -> None: ...
    def can_hold(self, group: Group, other: str, name: str, carried: Slice) -> bool: ...
    def make_room(self, group: Group, name: str, over: str | None, carried: Slice) -> None: ...
    def write(self, group: Group, name: str, start: int, stop: int, carried: Slice) -> None: ...
    def close(self, group: Group) -> None: ...


def walk(group: Group, values: Backend) -> None:
    """Run one group; alive are afterwards the values that are still read."""
    extent = values.extent(group.along, group.axis)
    way = group.way(extent)
    for name in group.reads:
        if way != "by rows" or name in group.beyond:
            values.gather(name)
    if way != "whole":
        _slice_by_slice(group, values, bounds(extent, group.slices))
        return
    # One stage after the other on whole values, as the original network does; each is as long as many slices.
    for stage, done in zip(group.stages, group.done, strict=True):
        values.run_whole(stage)
        values.free(name for name in done if name not in group.reads or name in group.dead)


def carry_through(group: Group, until: int | None, local: dict[str, T], run: Callable[[Stage], T]) -> dict[str, T]:
    """Run the stages of a group, or those before `until`, on one slice. local: what it has of values, by name."""
    for stage, done in zip(group.stages[:until], group.done, strict=False):
        local[stage.name] = run(stage)
        for name in done:
            local.pop(name, None)
    return local


def _slice_by_slice(group: Group, values: Backend, slices: Bounds) -> None:
    first, pieces = group.stages[0], values.pieces(group, slices)
    if first.norm is not None:  # it opens its group, so the value it normalises is whole by now
        values.measure(first, len(slices))
    if group.again is not None:
        second = group.stages[group.again]
        for start, stop in pieces:
            carried = values.carry(group, start, stop, group.again)
            values.add_moments(second, carried)
            del carried  # before the next slice is read
        values.finish_moments(group, second)
    for start, stop in pieces:
        carried = values.carry(group, start, stop)
        if group.axis.cuts_rows:
            for name in group.dead:
                values.consume(name, start, stop)
        if start == 0:
            _make_rooms(group, values, carried)
        # Written only now: an output may lie over an input that the stages above were still reading.
        for name in group.writes:
            values.write(group, name, start, stop, carried)
        del carried
    values.close(group)


def _make_rooms(group: Group, values: Backend, carried: object) -> None:
    """Every output goes over a dead input it fits in, if there is one, else into new memory; but pieces are added.

    An input of which later slices read what lies before them stays as it is.
    """
    free = [name for name in group.reads if name in group.dead and name not in group.beyond]
    for name in group.writes:
        fitting = free if group.keep == "whole" or group.kept_as(name) == "rows" else ()
        over = next((other for other in fitting if values.can_hold(group, other, name, carried)), None)
        if over is not None:
            free.remove(over)
        values.make_room(group, name, over, carried)
