"""Run a program in groups of stages, one slice carried through a whole group before the next one starts.

Operator Grouping (paper section 3.3). Alive at any time are the values that later groups still need, the
group's own inputs and outputs, and the intermediates of one slice. A group writes over an input of the
executor's own that nobody reads again where the shapes agree, and every value is dropped at its last use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..plan import BlockSlicing
from .by_rows import gather, run_by_rows, run_stages
from .conditions import Conditions
from .groups import Group, group_stages
from .moments import measure
from .rows import Rows
from .slicing import bounds, cut, empty_for, extent, unslice, whole
from .stages import Axis, Program


def nothing() -> None:
    """What is done before a slice where nobody asks for more."""


@dataclass(frozen=True)
class Executor:
    """A program ready to run under one slicing.

    apart: run the samples of the batch one after the other; they never look at each other.
    before_slice: called before every slice of every group; an exception it raises ends the run there.
    bound: the input of the program that is a feature kept by another run, if there is one.
    """

    program: Program
    groups: tuple[Group, ...]
    apart: bool
    before_slice: Callable[[], object]
    bound: str | None = None

    @classmethod
    def prepare(
        cls,
        program: Program,
        blocks: BlockSlicing,
        *,
        apart: bool = False,
        before_slice: Callable[[], object] = nothing,
        bound: str | None = None,
    ) -> Executor:
        return cls(program, group_stages(program, blocks), apart, before_slice, bound)

    def __call__(
        self, values: Mapping[str, Tensor], conditions: Conditions, features: list[Tensor] | None = None
    ) -> Tensor:
        """Run the program on its inputs, each (batch x frames, ...), and return its output, likewise.

        features: what the program keeps is added here, and what is bound is taken from here: one value for all
        samples together, or one for each apart.
        """
        if not self.apart or conditions.batch == 1:
            return self._run(values, conditions, features, 0)
        output = None
        for index in range(conditions.batch):
            start, stop = index * conditions.frames, (index + 1) * conditions.frames
            sample = {name: value[start:stop] for name, value in values.items()}
            result = self._run(sample, conditions.sample(index), features, index)
            if output is None:
                output = empty_for(Axis.FRAMES, result, like=next(iter(values.values())))
            output[start:stop].copy_(result)
        return output

    def _run(
        self, inputs: Mapping[str, Tensor], conditions: Conditions, features: list[Tensor] | None, index: int
    ) -> Tensor:
        values = dict(inputs)
        if self.bound is not None:
            values[self.bound] = features[index]
        owned: set[str] = set()
        final = {self.program.output, self.program.kept}
        for position, group in enumerate(self.groups):
            if self.program.hold is not None:
                ahead = self.groups[position + 1].stages if position + 1 < len(self.groups) else ()
                self.program.hold(group.stages, ahead)
            count = _count(group, values)
            if count > 1 and group.keep != "whole":
                run_by_rows(group, values, conditions, self.before_slice, final)
                owned.update(group.writes)
                continue
            gather(group, values)
            if count == 1:
                _run_whole(group, values, conditions, self.before_slice)
            else:
                _run_sliced(group, values, conditions, owned, self.before_slice)
                owned.update(group.writes)
        if self.program.kept is not None:
            features.append(values[self.program.kept])
        return values[self.program.output]


@dataclass(frozen=True)
class Call:
    """One call of a network: its program, what goes in, and how it is to be run. As for `Executor`."""

    program: Program
    slicing: BlockSlicing
    values: Mapping[str, Tensor]
    conditions: Conditions
    apart: bool = False
    before_slice: Callable[[], object] = nothing

    def run(
        self, program: Program | None = None, features: list[Tensor] | None = None, bound: str | None = None
    ) -> Tensor:
        """What the program gives, or another one in its place. features, bound: as for `Executor`."""
        executor = Executor.prepare(
            program or self.program, self.slicing, apart=self.apart, before_slice=self.before_slice, bound=bound
        )
        return executor(self.values, self.conditions, features)


class StepMemory(Protocol):
    """What runs the steps of a denoiser, one after the other, and may remember them."""

    def execute(self, call: Call, timestep: Tensor | float) -> Tensor:
        """Run one step."""

    def forget(self) -> None:
        """Free what is kept."""


def _count(group: Group, values: dict[str, Tensor]) -> int:
    first = values[group.reads[0]]
    size = first.extent(group.axis) if isinstance(first, Rows) else extent(group.axis, first)
    return min(group.slices, size)


def _run_whole(
    group: Group, values: dict[str, Tensor], conditions: Conditions, before_slice: Callable[[], object]
) -> None:
    """One stage after the other on whole values, as the original network does; each is as long as many slices."""
    last = {name: index for index, stage in enumerate(group.stages) for name in stage.reads}
    keep = set(group.writes) | {name for name in group.reads if name not in group.dead}
    for index, stage in enumerate(group.stages):
        before_slice()
        slices = [whole(group.axis, values[name]) for name in stage.reads]
        norm = (stage.norm,) if stage.norm is not None else ()
        result = stage.run(*norm, conditions, *slices)
        slices.clear()
        values[stage.name] = unslice(group.axis, result, values[stage.reads[0]])
        for name in stage.reads:
            if last[name] == index and name not in keep:
                values.pop(name, None)


def _run_sliced(
    group: Group,
    values: dict[str, Tensor],
    conditions: Conditions,
    owned: set[str],
    before_slice: Callable[[], object],
) -> None:
    """Carry one slice after the other through the group's stages.

    owned: values whose memory was made here, so that nobody outside (a hook, the caller) can hold it too.
    """
    axis, like = group.axis, values[group.reads[0]]
    size = extent(axis, like)
    pieces = bounds(size, group.slices)
    first = group.stages[0]
    norms = {}
    if first.norm is not None:  # it opens its group, so the value it normalises is whole by now
        norms[first.name] = measure(first.norm, values[first.reads[0]], conditions.batch, len(pieces))
    outputs: dict[str, Tensor] = {}
    for start, stop in pieces:
        before_slice()
        seen = conditions.slice_rows(start, stop) if axis is Axis.FRAMES else conditions.of_pixels(size)
        local = {name: cut(axis, values[name], start, stop) for name in group.reads}
        run_stages(group, local, seen, norms)
        if not outputs:
            free = _reusable(group, values, owned, [local[name] for name in group.writes])
            outputs = {name: _room(axis, local[name], like, free) for name in group.writes}
        # Written only now: an output may lie over an input that the stages above were still reading.
        for name, output in outputs.items():
            cut(axis, output, start, stop).copy_(local.pop(name))
    for name in group.dead:
        del values[name]
    values.update(outputs)


def _reusable(group: Group, values: dict[str, Tensor], owned: set[str], results: list[Tensor]) -> dict[str, Tensor]:
    """Dead inputs of our own that share their memory with no other value and with no result still to be written.

    They could: a part of a network, or a hook on it, may return what it was given.
    """

    def is_shared(name: str) -> bool:
        others = [value for other, value in values.items() if other != name and isinstance(value, Tensor)]
        storage = values[name].untyped_storage()
        return any(tensor.untyped_storage() is storage for tensor in others + results)

    return {name: values[name] for name in group.reads if name in group.dead & owned and not is_shared(name)}


def _room(axis: Axis, piece: Tensor, like: Tensor, free: dict[str, Tensor]) -> Tensor:
    """Where an output goes: over a dead input of the same shape and type, else new memory."""
    for name, value in free.items():
        if value.dtype == piece.dtype and _fits(axis, piece, value):
            return free.pop(name)
    return empty_for(axis, piece, like)


def _fits(axis: Axis, piece: Tensor, value: Tensor) -> bool:
    part = cut(axis, value, 0, piece.shape[0] if axis is Axis.FRAMES else extent(axis, piece))
    return part.shape == piece.shape
