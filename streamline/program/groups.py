"""Operator Grouping (paper section 3.3): consecutive stages that one slice is carried through."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from ..errors import PlanError, quoted
from ..plan import EVERY_BLOCK, BlockSlicing, Keep, Slicing, slicing_for
from .axes import Axis
from .slicing import widen
from .stages import Program, Stage


@dataclass(frozen=True)
class Group:
    """Consecutive stages of one axis that every slice is carried through.

    slices: how many, the most that any stage's block asks for.
    reads: values from outside the group. dead: those of them that nobody reads afterwards.
    writes: values of the group that are read afterwards; its other values live within one slice.
    keep: how they are kept, the most sparing way that any stage's block asks for.
    again: index of a stage with a second norm, whose input is computed once for its moments and once for the stage.
    final: values it writes that are given out, each as one tensor.
    """

    axis: Axis
    stages: tuple[Stage, ...]
    slices: int
    reads: tuple[str, ...]
    dead: frozenset[str]
    writes: tuple[str, ...]
    keep: Keep = "whole"
    again: int | None = None
    final: frozenset[str] = frozenset()

    def way(self, extent: int) -> Literal["whole", "sliced", "by rows"]:
        """Return how it is run on values that have so many elements along its axis.

        Whole, one stage after the other; in slices of values that are kept whole; or in slices of values that are kept
        by rows (rows.py) and freed as they are consumed, the floor of memory.
        """
        if min(self.slices, extent) <= 1:
            return "whole"
        return "sliced" if self.keep == "whole" else "by rows"

    def kept_as(self, name: str) -> Literal["tensor", "rows", "pieces"]:
        """Return what an output is kept as that is written slice by slice: a tensor, one a row, or one a slice."""
        if self.keep == "whole" or name in self.final:
            return "tensor"
        return "pieces" if self.axis.cuts_rows else "rows"

    def needs(self, until: int | None) -> tuple[str, ...]:
        """Return what is read from outside in slices by the stages before `until`, or by all."""
        read = {name for stage in self.stages[:until] for name in stage.reads if name not in stage.beyond}
        return tuple(name for name in self.reads if name in read)

    @property
    def along(self) -> str:
        """Return a value read from outside in which the axis has as many elements as in all that are cut."""
        return self.stages[0].along

    @cached_property
    def beyond(self) -> frozenset[str]:
        """Return the values of which slices are given more than their own elements: each is one tensor meanwhile."""
        return frozenset().union(*(stage.beyond for stage in self.stages))

    def around(self, start: int, stop: int, extent: int) -> tuple[int, int]:
        """Return how many elements more before and after a slice its stages are given at most."""
        first, last = widen(start, stop, self._halo, extent)
        return start - first, last - stop

    @cached_property
    def _halo(self) -> int:
        return max((halo for stage in self.stages for halo in stage.halo.values()), default=0)

    @cached_property
    def done(self) -> tuple[tuple[str, ...], ...]:
        """For every stage, the values that no later stage of the group reads, and that it does not write."""
        last = {name: index for index, stage in enumerate(self.stages) for name in stage.reads}
        return tuple(
            tuple(name for name in dict.fromkeys(stage.reads) if last[name] == index and name not in self.writes)
            for index, stage in enumerate(self.stages)
        )


def check_blocks(program: Program, blocks: BlockSlicing) -> None:
    """Refuse slicing that names a block which cannot be this network's, by PlanError; a deeper one than it has may."""
    kinds = program.block_kinds
    for block, _ in blocks:
        if block != EVERY_BLOCK and block.split(".")[0] not in kinds:
            names = ", ".join(f'"{name}"' for name in kinds.values())
            raise PlanError(f'The plan cuts {quoted(block)}, but the blocks of this network are {names} and "*".')


def group_stages(program: Program, blocks: BlockSlicing) -> tuple[Group, ...]:
    """Cut a program into groups.

    A new one starts where the axis changes, at a norm, at a length limit, and at a stage that reads more than the slice
    of a value that the group is only making.
    """
    table = dict(blocks)
    groups: list[list[int]] = []
    for index, stage in enumerate(program.stages):
        limit = slicing_for(table, stage.block).group
        current = groups[-1] if groups else []
        joins = (
            current
            and program.stages[current[0]].axis == stage.axis
            and (stage.norm is None or _can_repeat(program, current, index, table))
            and stage.beyond.isdisjoint(program.stages[at].name for at in current)
            and (limit is None or len(current) < limit)
        )
        if joins:
            current.append(index)
        else:
            groups.append([index])
    last_reads = program.last_reads()
    return tuple(_group(program, indices, table, last_reads) for indices in groups)


def _can_repeat(program: Program, current: list[int], index: int, table: dict[str, Slicing]) -> bool:
    """Whether what a norm looks at can be computed twice by the group before it, having no other reader."""
    stages = [program.stages[position] for position in (*current, index)]
    *before, last = stages
    return (
        not last.axis.cuts_rows
        and all(slicing_for(table, stage.block).keep != "whole" for stage in stages)
        and all(stage.norm is None for stage in before[1:])
        and last.reads[0] in {stage.name for stage in before}
        and last.reads[0] not in (program.output, program.kept)
        and sum(last.reads[0] in stage.reads for stage in program.stages) == 1
    )


def _group(program: Program, indices: list[int], table: dict[str, Slicing], last_reads: dict[str, int]) -> Group:
    stages = tuple(program.stages[index] for index in indices)
    axis = stages[0].axis
    asked = [slicing_for(table, stage.block) for stage in stages]
    written = {stage.name for stage in stages}
    reads = dict.fromkeys(name for stage in stages for name in stage.reads if name not in written)
    writes = tuple(stage.name for stage in stages if last_reads.get(stage.name, -1) > indices[-1])
    return Group(
        axis=axis,
        stages=stages,
        slices=max(getattr(slicing, axis.counted) for slicing in asked),
        reads=tuple(reads),
        dead=frozenset(name for name in reads if last_reads[name] <= indices[-1]),
        writes=writes,
        keep=max((slicing.keep for slicing in asked), key=get_args(Keep).index),
        again=next((at for at, stage in enumerate(stages) if at > 0 and stage.norm is not None), None),
        final=frozenset(name for name in writes if name in (program.output, program.kept)),
    )
