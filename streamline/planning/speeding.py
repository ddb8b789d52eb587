"""Which steps to reuse, or to leave out, for a quality: what the model's calibration found best at its cost.

"balanced" may take as long as the paper's rehash with every second step in full (13 of 25), "fast" half as long as
the original. Of all that was measured within that time the least error is taken, whether it reuses features, takes
fewer steps or chooses other noise levels. Without a calibration, every second or third step is computed in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..cost.pipeline_cost import PipelineCost
from ..cost.predicting import ExecutionTarget, predict
from ..plan import Plan, Rehash
from ..sampler import Sampler
from .calibrations import Calibration, Option, find_calibration
from .policies import DEFAULT_CUT, FEW_STEPS, Uniform

Quality = Literal["exact", "balanced", "fast"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
EVERY: dict[Quality, int] = {"balanced": 2, "fast": 3}  # of so many steps one in full, where nothing is known
FAST_FRACTION = 0.5  # of the original's time


@dataclass(frozen=True)
class Speed:
    """How a plan is to be faster than the original, and why so."""

    rehash: Rehash | None
    sampler: Sampler | None
    reason: str


def speed_for(costs: PipelineCost, target: ExecutionTarget, quality: Quality) -> Speed:
    """Return the way to be faster that a quality stands for."""
    steps = costs.job.num_inference_steps
    if quality == "exact":
        return Speed(None, None, "rehash: none, so every step is computed in full and the result is exact.")
    if steps <= FEW_STEPS:
        reason = f"rehash: none, for each of only {steps} steps does too much to be left out; the result is exact."
        return Speed(None, None, reason)
    known = None if costs.subject.known_as is None else find_calibration(*costs.subject.known_as, steps)
    if known is None:
        rehash = Uniform(EVERY[quality]).rehash(steps)
        reason = (
            f"rehash: {len(rehash.full_steps)} of {steps} steps in full, evenly spaced, the others reuse what "
            f"goes into the last layer ({DEFAULT_CUT}): the default, for nobody has calibrated this model. Not exact."
        )
        return Speed(rehash, None, reason)
    return _from_calibration(costs, target, quality, known)


def _from_calibration(costs: PipelineCost, target: ExecutionTarget, quality: Quality, known: Calibration) -> Speed:
    seconds = {option: predict(costs, option.plan(Plan()), target).seconds for option in known.options}
    original = predict(costs, Plan(), target).seconds
    if quality == "balanced":
        limit = predict(costs, Plan(rehash=Uniform(EVERY[quality], "paper").rehash(known.steps)), target).seconds
        meaning = "as long as the paper's rehash"
    else:
        limit, meaning = FAST_FRACTION * original, f"{FAST_FRACTION:.0%} of the original's time"
    fitting = [option for option in known.options if seconds[option] <= limit]
    if fitting:
        best = min(fitting, key=lambda option: (option.error, seconds[option]))
    else:
        best = min(known.options, key=lambda option: (seconds[option], option.error))
        meaning = f"{meaning}, which nothing keeps to"
    return Speed(best.rehash, best.sampler, _reason(best, known, seconds, original, meaning))


def _reason(best: Option, known: Calibration, seconds: dict[Option, float], original: float, meaning: str) -> str:
    """What was chosen, and what the best of the other kind would have lost in the same time."""
    others = [
        option
        for option in known.options
        if (option.rehash is None) != (best.rehash is None) and seconds[option] <= seconds[best] * 1.02
    ]
    rival = min(others, key=lambda option: option.error, default=None)
    kind, other = ("rehash", "without reuse") if best.rehash is not None else ("sampler", "with reuse")
    than = "" if rival is None else f"; {other} the best in that time is {rival.label} with {rival.error:.1%}"
    return (
        f"{kind}: {best.label}, {best.error:.1%} off in the latents at worst over {known.samples} calibrated runs, for "
        f"{seconds[best] / original:.0%} of the time ({meaning}){than}. Not exact."
    )
