"""Step Rehash (paper section 3.4): where a feature is kept, and which steps compute it.

Where: at the last concatenation of the last up block, whose skip connection comes from the first convolution. On
a step that reuses what is joined there, the down path, the middle and all but the last layer of the up path are
dead code, and the last layer still sees the step's own latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from ..errors import PlanError, UnsupportedError
from ..plan import BlockSlicing, Rehash
from .conditions import Conditions
from .executor import Executor, nothing
from .program import Program

EVERY = {"exact": 1, "balanced": 2, "fast": 3}  # of so many steps, one is computed in full


def schedule(quality: str, steps: int) -> tuple[int, ...]:
    """The steps computed in full, the first and the last among them.

    Evenly spaced: "balanced" is every second step (13 of 25, as many as the paper's), "fast" every third (9 of 25).
    """
    return tuple(sorted({*range(0, steps, EVERY[quality]), steps - 1}))


def find_cut(program: Program) -> str:
    """The value that is kept: the last one of an up block from which the rest follows without down or middle blocks.

    Raises UnsupportedError for a network that has none.
    """
    for stage in reversed(program.stages):
        if not stage.block.startswith("up."):
            continue
        rest = program.bind([stage.name])
        if set(rest.inputs) == {*program.inputs, stage.name} and not any(_is_before(s.block) for s in rest.stages):
            return stage.name
    raise UnsupportedError("This network has no point at which a step could reuse what the step before computed.")


def _is_before(block: str) -> bool:
    return block == "mid" or block.startswith("down.")


class Memory:
    """What one network remembers from step to step while a plan with a rehash is at work on it.

    A run starts anew when the timestep rises, and its features are freed at the end by `forget`. A step counts once it
    is done: one that failed can be run again, by a plan that runs guidance apart too.
    """

    def __init__(self, rehash: Rehash) -> None:
        self._rehash = rehash
        self.forget()

    def forget(self) -> None:
        """Free what is kept; the next step is the first of a run."""
        self._step = 0
        self._last: float | None = None
        self._of: tuple[int, int] | None = None
        self._features: list[Tensor] = []

    def execute(
        self,
        program: Program,
        slicing: BlockSlicing,
        apart: bool,
        timestep: float,
        values: Mapping[str, Tensor],
        conditions: Conditions,
        before_slice: Callable[[], object] = nothing,
    ) -> Tensor:
        """Run one step, in full or from what the last full one kept. Raises PlanError for a cut that is not there."""
        if self._last is not None and timestep > self._last:
            self.forget()
        cut, full = self._rehash.cut, self._rehash.full_steps
        if cut not in {stage.name for stage in program.stages}:
            raise PlanError(f"The plan's rehash cuts at {cut!r}, which this network does not have.")
        extent = (conditions.batch, conditions.frames)
        is_full = self._step in full or self._step > full[-1] or self._of != extent
        if is_full:
            self._of, self._features = None, []  # what was kept is freed before the step, not after it
            executor = Executor.prepare(replace(program, kept=cut), slicing, apart=apart, before_slice=before_slice)
        else:
            if apart and len(self._features) < conditions.batch:  # they were kept together
                self._features = list(self._features[0].split(conditions.frames))
            executor = Executor.prepare(program.bind([cut]), slicing, apart=apart, before_slice=before_slice, bound=cut)
        output = executor(values, conditions, self._features)
        self._step, self._last, self._of = self._step + 1, timestep, extent
        return output
