"""Which noise levels a run visits: fewer steps, or levels chosen by hand, instead of the job's own number of steps.

Fewer steps are what any reuse of features has to beat at the same cost, so a plan can ask for them too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from diffusers import DiffusionPipeline
from diffusers.schedulers import AysSchedules

from .errors import PlanError, UnsupportedError, quoted

MOST_STEPS = 1000


@dataclass(frozen=True)
class Sampler:
    """How many denoising steps are taken, in place of the job's, and at which noise levels.

    sigmas: noise levels from the highest to the lowest, one a step; None leaves them to the pipeline's scheduler.

    Raises PlanError when a field does not fit.
    """

    steps: int
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or not 1 <= self.steps <= MOST_STEPS:
            raise PlanError(f"Sampler.steps must be a whole number from 1 to {MOST_STEPS}, not {quoted(self.steps)}.")
        if self.sigmas is None:
            return
        try:
            sigmas = tuple(float(sigma) for sigma in self.sigmas)
        except (TypeError, ValueError) as error:
            raise PlanError("Sampler.sigmas must be a list of noise levels.") from error
        falls = all(a > b for a, b in pairwise(sigmas))
        if len(sigmas) != self.steps or not falls or not all(0 < sigma < math.inf for sigma in sigmas):
            raise PlanError("Sampler.sigmas must be one positive noise level for each step, each below the one before.")
        object.__setattr__(self, "sigmas", sigmas)

    @classmethod
    def align_your_steps(cls, steps: int, highest: float, lowest: float) -> Sampler:
        """The levels that Align Your Steps found for Stable Video Diffusion, for any number of steps and range.

        Between its ten levels the logarithm is interpolated, as its authors advise; a model trained for another
        range of noise has them moved there in proportion. Source: Sabour et al., arXiv 2404.14507;
        diffusers.schedulers.AysSchedules. highest, lowest: the first and the last level.
        """
        known = np.log(AysSchedules["StableDiffusionVideoSigmas"][:-1])
        fraction = np.interp(
            np.linspace(0, 1, steps), np.linspace(0, 1, len(known)), (known - known[-1]) / np.ptp(known)
        )
        levels = np.exp(math.log(lowest) + fraction * (math.log(highest) - math.log(lowest)))
        return cls(steps, tuple(round(float(level), 6) for level in levels))

    def arguments(self) -> dict[str, object]:
        """What to call the pipeline with."""
        if self.sigmas is None:
            return {"num_inference_steps": self.steps}
        return {"num_inference_steps": self.steps, "sigmas": [*self.sigmas, 0.0]}

    def to_dict(self) -> dict[str, object]:
        """Plain data, ready for JSON."""
        levels: Sequence[float] | None = None if self.sigmas is None else list(self.sigmas)
        return {"steps": self.steps, "sigmas": levels}


def takes_sigmas(pipe: DiffusionPipeline) -> bool:
    """Whether a pipeline and its scheduler can be told noise levels."""
    calls = (type(pipe).__call__, type(pipe.scheduler).set_timesteps)
    return all("sigmas" in inspect.signature(call).parameters for call in calls)


def sampler_arguments(pipe: DiffusionPipeline, sampler: Sampler) -> dict[str, object]:
    """What to call a pipeline with. Raises UnsupportedError where it cannot be told noise levels."""
    if sampler.sigmas is not None and not takes_sigmas(pipe):
        raise UnsupportedError(
            f"{type(pipe).__name__} with a {type(pipe.scheduler).__name__} cannot be told noise levels, which the "
            "plan's sampler has; leave them out, or take another scheduler."
        )
    return sampler.arguments()
