"""One walk over a group of stages: slice by slice, or stage by stage, with moments taken first and values freed last.

What is carried is the back end's: tensors where the group is run (tensors.py), sizes where it is only asked what it
would take (cost/ledger.py). When something is read, made, written or freed is decided here, once for both.

A second norm in a group of pixels looks at what the stages before it make of every pixel. That is computed twice, once
for the moments and once to go on with, and never kept: SVD's temporal resnets hold one whole value and not two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from .groups import Group
from .slicing import bounds
from .stages import Axis, Stage

T = TypeVar("T")
Slice = TypeVar("Slice")


class Backend(Protocol[Slice]):
    """The values that are alive, by name. A Slice is one slice of some of them."""

    def extent(self, name: str, axis: Axis) -> int:
        """Return the number of elements an axis has in a value."""

    def gather(self, name: str) -> None:
        """Make one tensor of a value that is kept by rows."""

    def free(self, names: Iterable[str]) -> None:
        """Let go of values."""

    def run_whole(self, stage: Stage) -> None:
        """Run a stage on whole values."""

    def measure(self, stage: Stage, slices: int) -> None:
        """Take the moments of what a stage normalises, which is whole, in so many slices of rows."""

    def pieces(self, group: Group, pieces: list[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Return those of a group's slices that have to be carried."""

    def carry(self, group: Group, start: int, stop: int, until: int | None = None) -> Slice:
        """Carry a slice through the stages of a group, or those before `until`, and return what is left of it."""

    def add_moments(self, stage: Stage, carried: Slice) -> None:
        """Add to the moments of what a stage normalises those of a slice of it."""

    def finish_moments(self, group: Group, stage: Stage) -> None:
        """All of it was seen."""

    def consume(self, name: str, start: int, stop: int) -> None:
        """Free the pieces of a value that end within these rows, if it is kept in pieces."""

    def can_hold(self, group: Group, other: str, name: str, carried: Slice) -> bool:
        """Return whether an output fits over a dead input, which is nobody else's."""

    def make_room(self, group: Group, name: str, over: str | None, carried: Slice) -> None:
        """Make room for an output: over an input, or in new memory."""

    def write(self, group: Group, name: str, start: int, stop: int, carried: Slice) -> None:
        """Write a slice of an output."""

    def close(self, group: Group) -> None:
        """Let outputs take the place of the inputs that are dead."""


def walk(group: Group, values: Backend) -> None:
    """Run one group; alive are afterwards the values that are still read."""
    extent = values.extent(group.reads[0], group.axis)
    way = group.way(extent)
    if way != "by rows":
        for name in group.reads:
            values.gather(name)
    if way == "whole":
        _stage_by_stage(group, values)
    else:
        _slice_by_slice(group, values, bounds(extent, group.slices))


def carry_through(group: Group, until: int | None, local: dict[str, T], run: Callable[[Stage], T]) -> dict[str, T]:
    """Run the stages of a group, or those before `until`, on one slice. local: what it has of values, by name."""
    for stage, done in zip(group.stages[:until], group.done, strict=False):
        local[stage.name] = run(stage)
        for name in done:
            local.pop(name, None)
    return local


def _stage_by_stage(group: Group, values: Backend) -> None:
    """One stage after the other on whole values, as the original network does; each is as long as many slices."""
    for stage, done in zip(group.stages, group.done, strict=True):
        values.run_whole(stage)
        values.free(name for name in done if name not in group.reads or name in group.dead)


def _slice_by_slice(group: Group, values: Backend, bounds: list[tuple[int, int]]) -> None:
    first, pieces = group.stages[0], values.pieces(group, bounds)
    if first.norm is not None:  # it opens its group, so the value it normalises is whole by now
        values.measure(first, len(bounds))
    if group.again is not None:
        second = group.stages[group.again]
        for start, stop in pieces:
            carried = values.carry(group, start, stop, group.again)
            values.add_moments(second, carried)
            del carried  # before the next slice is read
        values.finish_moments(group, second)
    for start, stop in pieces:
        carried = values.carry(group, start, stop)
        if group.axis is Axis.FRAMES:
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
    """Every output goes over a dead input that it fits in, if there is one, else into new memory."""
    free = [name for name in group.reads if name in group.dead]
    for name in group.writes:
        over = None
        if group.reuses(name):
            over = next((other for other in free if values.can_hold(group, other, name, carried)), None)
        if over is not None:
            free.remove(over)
        values.make_room(group, name, over, carried)
