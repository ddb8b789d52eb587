"""The values of a run, as the tensors they are: what a walk (walk.py) carries through a network to run it.

Alive at any time are the values that later groups still need, the group's own inputs and outputs, and the intermediates
of one slice. Nothing here holds a value longer than the walk does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from .axes import Axis
from .conditions import Conditions
from .groups import Group
from .moments import AppliedNorm, Moments, measure
from .rows import Rows
from .slicing import empty_for, widen
from .stages import Stage
from .walk import carry_through


class Tensors:
    """The back end of a walk that runs it; methods as in `walk.Backend`.

    values: that are alive, by name; those of rows and tensors that the walk made itself are nobody else's.
    """

    def __init__(
        self, values: Mapping[str, Tensor], conditions: Conditions, before_slice: Callable[[], object]
    ) -> None:
        """before_slice: called before every slice of every group, and every stage of those that are not sliced."""
        self.values: dict[str, Tensor | Rows] = dict(values)
        self._conditions, self._before_slice = conditions, before_slice
        self._owned: set[str] = set()
        self._norms: dict[str, AppliedNorm] = {}
        self._moments: Moments | None = None
        self._outputs: dict[str, Tensor | Rows] = {}

    def extent(self, name: str, axis: Axis) -> int:
        return axis.extent(self.values[name].shape)

    def gather(self, name: str) -> None:
        if isinstance(self.values[name], Rows):
            self.values[name] = self.values[name].gather()

    def free(self, names: Iterable[str]) -> None:
        for name in names:
            self.values.pop(name, None)

    def run_whole(self, stage: Stage) -> None:
        self._before_slice()
        slices = [stage.axis.whole(self.values[name]) for name in stage.reads]
        norm = (stage.norm,) if stage.norm is not None else ()
        result = stage.run(*norm, self._conditions, *slices)
        slices.clear()
        self.values[stage.name] = stage.axis.unslice(result, self.values[stage.along])

    def measure(self, stage: Stage, slices: int) -> None:
        self._norms[stage.name] = measure(stage.norm, self.values[stage.reads[0]], self._conditions.batch, slices)

    def pieces(self, group: Group, pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return pieces

    def carry(self, group: Group, start: int, stop: int, until: int | None = None) -> dict[str, Tensor]:
        self._before_slice()
        seen = self._conditions.of_slice(group.axis, start, stop, self.extent(group.along, group.axis))
        local = {name: self._read(group.axis, name, start, stop) for name in group.needs(until)}

        def run(stage: Stage) -> Tensor:
            norm = (self._norms[stage.name],) if stage.norm is not None else ()
            given = (
                self._read_beyond(stage, name, start, stop) if name in stage.beyond else local[name]
                for name in stage.reads
            )
            return stage.run(*norm, seen, *given)

        return carry_through(group, until, local, run)

    def add_moments(self, stage: Stage, carried: dict[str, Tensor]) -> None:
        self._moments = self._moments or Moments(stage.norm, self._conditions.batch)
        self._moments.add(carried[stage.reads[0]])

    def finish_moments(self, group: Group, stage: Stage) -> None:
        self._norms[stage.name], self._moments = self._moments.applied(), None

    def consume(self, name: str, start: int, stop: int) -> None:
        if isinstance(self.values[name], Rows):
            self.values[name].free(stop)

    def can_hold(self, group: Group, other: str, name: str, carried: dict[str, Tensor]) -> bool:
        piece, value = carried[name], self.values[other]
        if isinstance(value, Rows):
            return value.fits(group.axis, piece)
        if group.keep != "whole" or other not in self._owned or value.dtype != piece.dtype:
            return False
        size = group.axis.extent(piece.shape)
        return group.axis.cut(value, 0, size).shape == piece.shape and not self._is_shared(other, carried)

    def make_room(self, group: Group, name: str, over: str | None, carried: dict[str, Tensor]) -> None:
        piece, like, on_host = carried[name], self.values[group.along].shape, group.keep == "host"
        if over is not None:
            room = self.values[over]
        elif group.kept_as(name) == "tensor":
            room = empty_for(group.axis, piece, like)
        elif group.kept_as(name) == "pieces":
            room = Rows(piece.device, on_host=on_host)
        else:
            room = Rows.empty(group.axis.room(piece.shape, like), piece, on_host=on_host)
        self._outputs[name] = room

    def write(self, group: Group, name: str, start: int, stop: int, carried: dict[str, Tensor]) -> None:
        result, output = carried.pop(name), self._outputs[name]
        if isinstance(output, Tensor):
            group.axis.cut(output, start, stop).copy_(result)
        elif group.axis.cuts_rows:
            output.add(result)
        else:
            output.write(group.axis, start, stop, result)

    def close(self, group: Group) -> None:
        self.free(group.dead)
        self.values.update(self._outputs)
        self._owned.update(self._outputs)
        self._norms.clear()
        self._outputs.clear()

    def _read(self, axis: Axis, name: str, start: int, stop: int) -> Tensor:
        value = self.values[name]
        return value.read(axis, start, stop) if isinstance(value, Rows) else axis.cut(value, start, stop)

    def _read_beyond(self, stage: Stage, name: str, start: int, stop: int) -> Tensor:
        """More than a slice: a whole value, or a slice with its halo. The walk has made one tensor of it."""
        value, axis = self.values[name], stage.axis
        if name in stage.whole:
            return axis.whole(value)
        return axis.cut(value, *widen(start, stop, stage.halo[name], axis.extent(value.shape)))

    def _is_shared(self, name: str, carried: dict[str, Tensor]) -> bool:
        """Whether a value shares its memory with another one, or with a result that is still to be written.

        It could: a part of a network, or a hook on it, may return what it was given.
        """
        others = [value for other, value in self.values.items() if other != name and isinstance(value, Tensor)]
        storage = self.values[name].untyped_storage()
        return any(tensor.untyped_storage() is storage for tensor in (*others, *carried.values()))
