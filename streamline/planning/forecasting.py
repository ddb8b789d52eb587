"""A forecast: all that is to be known of a job before it runs. Everyone who plans asks it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from math import lcm

import torch
from diffusers import DiffusionPipeline

from ..cost.experience import Experience, model_key, subject_key
from ..cost.pipeline_cost import PipelineCost
from ..cost.predicting import ExecutionTarget
from ..cost.predicting import predict as predict_plan
from ..cost.scaling import ScaledCost
from ..families.building import planned_names
from ..families.subject import Subject
from ..families.subjects import subject_named, subject_of
from ..hardware.detection import default_budget, detect
from ..hardware.device import Device
from ..hardware.rates import Rates, rates_of
from ..job import Job
from ..models.loading import computed_in, load
from ..plan import Plan
from ..prediction import BudgetError, Candidate, Prediction
from ..program.casting import FLOAT8
from ..sizes import parse_bytes
from .planner import Request, candidates, choose, format_up, readapted
from .speeding import Quality

Where = str | torch.device | tuple[Device, Rates] | None
SMALLEST_SIDE = 64  # pixels; latents of 8 are halved three times


class Forecast:
    """What one job takes on one device, by whatever plan; choosing a plan is instant once its frontier is known.

    job, device, rates, dtype: what it is of. quality: where nobody names another.
    """

    def __init__(
        self,
        costs: PipelineCost,
        target: ExecutionTarget,
        quality: Quality = "exact",
        known: tuple[Candidate, ...] | None = None,
    ) -> None:
        """costs: of the job. target: where it runs. known: the slicings that are tried, where not all are.

        Raises InputError for an unknown quality.
        """
        self.costs, self.target, self.quality, self._known = costs, target, quality, known
        Request(costs, target, quality)  # refuses an unknown quality at once
        self._frontiers: dict[Quality, tuple[Candidate, ...]] = {}
        self._originals: dict[ExecutionTarget, Prediction] = {}

    @classmethod
    def of(
        cls,
        model: DiffusionPipeline | str,
        job: Job,
        quality: Quality = "exact",
        device: Where = None,
        dtype: torch.dtype | None = None,
        known: Forecast | None = None,
    ) -> Forecast:
        """Return the forecast of a job; arguments as for `tune`.

        known: an earlier one, whose measurements are used again where model and shape are the same, and of which the
            networks built for it are, where only the shape is another.
        """
        subject, found, rates = _subject_and_device(model, device, dtype)
        costs = PipelineCost(subject, job)
        if known is not None:
            costs.share(known.costs)
            costs = known.costs.for_job(job, subject) if known.costs.is_like(costs) else costs
        return cls(costs, target_of(subject, job, found, rates), quality)

    @property
    def job(self) -> Job:
        return self.costs.job

    @property
    def device(self) -> Device:
        return self.target.device

    @property
    def rates(self) -> Rates:
        return self.target.rates

    @property
    def dtype(self) -> torch.dtype:
        return self.costs.subject.dtype

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The frontier of the forecast's own quality."""
        return self.frontier()

    def frontier(self, quality: Quality | None = None) -> tuple[Candidate, ...]:
        """Return every plan worth choosing, from the fastest to the smallest, with what it takes under a cap.

        Raises InputError for an unknown quality.
        """
        quality = quality or self.quality
        if quality not in self._frontiers:
            request = Request(self.costs, self.target, quality)
            found = candidates(request) if self._known is None else readapted(self._known, request)
            self._frontiers[quality] = found
            self.save()
        return self._frontiers[quality]

    def choose(self, budget: str | int | None = None, quality: Quality | None = None) -> Candidate:
        """Return the fastest plan within a budget, and what it takes; budget and errors as for `tune`."""
        budget_bytes = default_budget(self.device) if budget is None else parse_bytes(budget)
        request = Request(self.costs, self.target, quality or self.quality)
        try:
            return choose(self.frontier(quality), request, budget_bytes)
        except BudgetError as error:
            alternatives = tuple(_alternatives(self.costs, self.target, budget_bytes, error.smallest))
            jobs = " or ".join(
                f"{one.num_frames} frames of {one.height}x{one.width} ({format_up(prediction.peak_bytes)})"
                for one, prediction in alternatives
            )
            advice = f" What fits: {jobs}." if jobs else " No smaller job fits either."
            raise BudgetError(f"{error}{advice}", error.smallest, alternatives) from None

    def predict(self, plan: Plan) -> Prediction:
        """Return what a run by a plan will take, stage by stage."""
        try:
            return predict_plan(self.costs, plan, self.target)
        finally:
            self.save()

    @property
    def original(self) -> Prediction:
        """What the untouched pipeline takes, without a cap: its networks as diffusers runs them."""
        return self._original(self.target)

    @property
    def original_capped(self) -> Prediction:
        """What the untouched pipeline takes where a cap has its tensors counted too (hardware/cap.py)."""
        return self._original(self.target.capped)

    def _original(self, target: ExecutionTarget) -> Prediction:
        if target not in self._originals:
            self._originals[target] = predict_plan(self.costs, None, target)
            self.save()
        return self._originals[target]

    def adapted(self, job: Job, quality: Quality = "exact", device: tuple[Device, Rates] | None = None) -> Forecast:
        """Return what to expect of another job on the model, at once: hardly anything is measured.

        Figures are those of a new forecast for a job of the same shape, and in proportion for another one, which is
        right to a hundredth or two (cost/scaling.py). The slicings are these. What runs have taught is taken in.
        job: with guidance, or without it, as this one. device: another one of the same kind, with its rates.
        """
        is_same = self.costs.shape == (job.height, job.width, job.num_frames)
        costs = self.costs.for_job(job, self.costs.subject) if is_same else ScaledCost(self.costs, job)
        target = target_of(costs.subject, job, *(device or (self.device, self.rates)))
        return Forecast(costs, target, quality, self.candidates)

    def save(self) -> None:
        """Write what was measured since to disk, for the next forecast of the same model."""
        if not isinstance(self.costs, ScaledCost):
            self.costs.save()


def _subject_and_device(
    model: DiffusionPipeline | str, device: Where, dtype: torch.dtype | None
) -> tuple[Subject, Device, Rates]:
    if isinstance(model, str) and model not in planned_names():
        model = load(model, device=None if isinstance(device, tuple) else device, dtype=dtype)
    if isinstance(device, tuple):
        found, rates = device
    else:
        found = detect(model._execution_device if device is None and not isinstance(model, str) else device)
        rates = rates_of(found)
    if not isinstance(model, str):
        return subject_of(model), found, rates
    storage = dtype if dtype == FLOAT8 else None
    computed = computed_in(found.kind) if dtype is None or storage else dtype
    return subject_named(model, computed, storage), found, rates


def target_of(subject: Subject, job: Job, device: Device, rates: Rates) -> ExecutionTarget:
    """Return where a job runs, with what runs there have taught of it."""
    description = subject.describe()
    known = Experience(device, subject.dtype).correction(model_key(description), subject_key(description, job))
    return ExecutionTarget(device, rates, known)


def _alternatives(
    costs: PipelineCost, target: ExecutionTarget, budget_bytes: int, smallest: Candidate
) -> Iterator[tuple[Job, Prediction]]:
    """The nearest jobs that fit by the smallest plan there is: with fewer frames, and with a smaller picture."""
    job, family = costs.job, costs.family
    lengths = [frames for frames in range(job.num_frames - 1, 1, -1) if (frames - 1) % family.frame_step == 0]
    fewer = [replace(job, num_frames=frames) for frames in lengths]
    multiple = lcm(SMALLEST_SIDE, family.side_multiple)
    shares = [fraction / 32 for fraction in range(31, 2, -1)]
    sizes = [(_side(job.height * share, multiple), _side(job.width * share, multiple)) for share in shares]
    smaller = [replace(job, height=h, width=w) for h, w in dict.fromkeys(sizes) if (h, w) != (job.height, job.width)]

    def predicted(other: Job) -> Prediction:
        return predict_plan(ScaledCost(costs, other), smallest.plan, target)

    for jobs in (fewer, smaller):  # from the largest to the smallest
        index = bisect_left(jobs, True, key=lambda other: predicted(other).peak_bytes <= budget_bytes)
        if index < len(jobs):
            yield jobs[index], predicted(jobs[index])


def _side(pixels: float, multiple: int) -> int:
    return max(multiple, int(pixels) // multiple * multiple)
