"""Run a program in groups of stages, one slice carried through a whole group before the next one starts.

Operator Grouping (paper section 3.3). Alive at any time are the values that later groups still need, the
group's own inputs and outputs, and the intermediates of one slice. A group writes over an input of the
executor's own that nobody reads again where the shapes agree, and every value is dropped at its last use (walk.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import zip_longest
from typing import Protocol

from torch import Tensor

from ..plan import BlockSlicing
from .axes import FRAMES
from .conditions import Conditions
from .groups import group_stages
from .slicing import empty_for
from .stages import Program
from .tensors import Tensors
from .walk import walk


def nothing() -> None:
    """What is done before a slice where nobody asks for more."""


@dataclass(frozen=True)
class Executor:
    """A program ready to run under one slicing.

    sequential: run the samples of the batch one after the other; they never look at each other.
    before_slice: called before every slice of every group; an exception it raises ends the run there.
    bound: the input of the program that is a feature kept by another run, if there is one.
    """

    program: Program
    slicing: BlockSlicing
    _: KW_ONLY
    sequential: bool = False
    before_slice: Callable[[], object] = nothing
    bound: str | None = None

    def __call__(
        self, values: Mapping[str, Tensor], conditions: Conditions, features: list[Tensor] | None = None
    ) -> Tensor:
        """Run the program on its inputs, each (batch x frames, ...), and return its output, likewise.

        features: what the program keeps is added here, and what is bound is taken from here: one value for all
        samples as a batch, or one for each of them.
        """
        if not self.sequential or conditions.batch == 1:
            return self._run(values, conditions, features, 0)
        output = None
        for index in range(conditions.batch):
            start, stop = index * conditions.frames, (index + 1) * conditions.frames
            sample = {name: value[start:stop] for name, value in values.items()}
            result = self._run(sample, conditions.sample(index), features, index)
            if output is None:
                output = empty_for(FRAMES, result, like=next(iter(values.values())).shape)
            output[start:stop].copy_(result)
        return output

    def _run(
        self, inputs: Mapping[str, Tensor], conditions: Conditions, features: list[Tensor] | None, index: int
    ) -> Tensor:
        given = {} if self.bound is None else {self.bound: features[index]}
        run = Tensors({**inputs, **given}, conditions, self.before_slice)
        groups = group_stages(self.program, self.slicing)
        for group, prefetched in zip_longest(groups, groups[1:]):
            if self.program.hold is not None:
                self.program.hold(group.stages, prefetched.stages if prefetched else ())
            walk(group, run)
        if self.program.kept is not None:
            features.append(run.values[self.program.kept])
        return run.values[self.program.output]


@dataclass(frozen=True)
class Call:
    """One call of a network: its program, what goes in, and how it is to be run. As for `Executor`."""

    program: Program
    slicing: BlockSlicing
    values: Mapping[str, Tensor]
    conditions: Conditions
    sequential: bool = False
    before_slice: Callable[[], object] = nothing

    def run(
        self, program: Program | None = None, features: list[Tensor] | None = None, bound: str | None = None
    ) -> Tensor:
        """What the program gives, or another one in its place. features, bound: as for `Executor`."""
        program = program or self.program
        execute = Executor(
            program, self.slicing, sequential=self.sequential, before_slice=self.before_slice, bound=bound
        )
        return execute(self.values, self.conditions, features)


class StepMemory(Protocol):
    """What runs the steps of a denoiser, one after the other, and may remember them."""

    def execute(self, call: Call, timestep: Tensor | float) -> Tensor:
        """Run one step."""

    def forget(self) -> None:
        """Free what is kept."""
