"""What a run tells while it happens, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from ..applying.fallback import PlanDowngraded
from ..job import Job
from ..plan import Plan
from .watching import Disturbed


@dataclass(frozen=True)
class Started:
    """The pipeline is called. weights_bytes: of all its networks."""

    job: Job
    plan: Plan | None
    weights_bytes: int


@dataclass(frozen=True)
class Step:
    """One denoising step is done: index counts from 0. Bytes include the weights.

    peak_bytes: the most that was alive at once so far.
    latents: what the scheduler expects the clean latents to be (else those of the step), for `preview`, on the
        device; no copy, so hold on to them no longer than needed.
    """

    index: int
    total: int
    seconds: float
    live_bytes: int
    peak_bytes: int
    latents: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Decoding:
    """Denoising is done; the latents become frames."""


@dataclass(frozen=True)
class Finished:
    """The frames are there. seconds: of the whole call; peak_bytes: since it started."""

    seconds: float
    peak_bytes: int


Event = Started | Step | PlanDowngraded | Disturbed | Decoding | Finished


@dataclass(frozen=True)
class Result:
    """A video and what it took.

    frames: RGB images of width x height.
    seconds: of the whole call; step_seconds: of each denoising step; decode_seconds: of what follows them. On a
        CPU they include the time it takes to count tensors.
    peak_bytes: the most that was alive at once, weights included. On a CPU these are tensors, counted in
        the first two steps, the last, and what comes before and after; on a GPU what the allocator gave.
    weights_bytes: of all networks of the pipeline.
    plan: None for the pipeline as it is. Where memory ran out on the way, the downgraded one that the run ended with.
    rungs: how often memory ran out and what was being done was done again, each time by a `PlanDowngraded`; the name
        is that of the JSON key.
    disturbances: slowdown warnings, a sentence each; the name is that of the JSON key.
    """

    frames: tuple[Image.Image, ...]
    job: Job
    plan: Plan | None
    device: str
    seconds: float
    step_seconds: tuple[float, ...]
    decode_seconds: float
    peak_bytes: int
    weights_bytes: int
    rungs: int = 0
    disturbances: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """Return the job's."""
        return self.job.seed

    def to_dict(self) -> dict:
        """Return everything but the frames, ready for JSON."""
        return {
            "job": self.job.to_dict(),
            "plan": None if self.plan is None else self.plan.to_dict(),
            "seed": self.seed,
            "device": self.device,
            "seconds": self.seconds,
            "step_seconds": list(self.step_seconds),
            "decode_seconds": self.decode_seconds,
            "peak_bytes": self.peak_bytes,
            "weights_bytes": self.weights_bytes,
            "rungs": self.rungs,
            "disturbances": list(self.disturbances),
        }
