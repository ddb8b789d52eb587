"""What a caller adds to a plan at work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..program.executor import StepMemory
from .fallback import PlanDowngraded


@dataclass(frozen=True)
class Hooks:
    """What is called while a plan is at work on a pipeline; by default nothing.

    before_slice: called before every slice; an exception it raises ends the pipeline's call there.
    feature_cache: runs the steps of the denoisers, in place of what the plan's rehash asks for; for calibration.
    on_downgrade: told of every downgraded plan.
    around_step: around_step(run, ...) is called in the place of each call of a denoiser, run(...).
    """

    before_slice: Callable[[], object] | None = None
    feature_cache: StepMemory | None = None
    on_downgrade: Callable[[PlanDowngraded], object] | None = None
    around_step: Callable[..., object] | None = None
