"""Know the cost before a run: `predict` what a plan takes, `tune` a plan to a budget, draw the `frontier`.

A `forecast` is what all of these come from, kept by who asks again and again.

A model is a pipeline that is loaded, or a name: published models are planned without their weights, any other is
loaded first. A device is one that is here, by torch's name for it, or an emulated card: `device=emulate("8GiB")`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline

from ..cost.experience import Experience, model_key, subject_key
from ..cost.pipeline_cost import PipelineCost
from ..cost.predicting import Place
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
from .planner import Quality, candidates, choose, format_up, readapted

Where = str | torch.device | tuple[Device, Rates] | None
SMALLEST_SIDE = 64  # pixels; latents of 8 are halved three times


def tune(
    model: DiffusionPipeline | str,
    job: Job,
    budget: str | int | None = None,
    quality: Quality = "exact",
    device: Where = None,
    dtype: torch.dtype | None = None,
) -> Plan:
    """The fastest plan that keeps within a budget, with the reason for every choice.

    budget: "8GiB", or bytes, of all that the process holds on the device; None takes what is free there.
    quality: "exact" gives the same video as diffusers; "balanced" may take as long as the paper's rehash, "fast" half
        as long as the original, and both lose as little by it as the model's calibration knows how (speeding.py).
    device: where it will run; by default where the pipeline is, else the best that is here.
    dtype: of the weights of a model given by name; by default as `load` would have it.

    Raises BudgetError, which names the smallest budget that would do and jobs that fit, when nothing fits;
    InputError for a budget or a quality that makes no sense; UnsupportedError for pipelines without a cost model.
    """
    return plan_with_prediction(model, job, budget, quality, device, dtype).plan


def plan_with_prediction(
    model: DiffusionPipeline | str,
    job: Job,
    budget: str | int | None = None,
    quality: Quality = "exact",
    device: Where = None,
    dtype: torch.dtype | None = None,
) -> Candidate:
    """What `tune` finds, and what it will take."""
    known = forecast(model, job, quality, device, dtype)
    try:
        return known.choose(budget)
    finally:
        known.costs.save()


def predict(
    model: DiffusionPipeline | str,
    job: Job,
    plan: Plan,
    device: Where = None,
    dtype: torch.dtype | None = None,
) -> Prediction:
    """What a run by a plan will take, stage by stage; arguments and errors as for `tune`."""
    costs, place = situation(model, job, device, dtype)
    try:
        return predict_plan(costs, plan, place)
    finally:
        costs.save()


def frontier(
    model: DiffusionPipeline | str,
    job: Job,
    quality: Quality = "exact",
    device: Where = None,
    dtype: torch.dtype | None = None,
) -> tuple[Candidate, ...]:
    """Time against memory: every plan worth choosing, from the fastest to the smallest; arguments as for `tune`."""
    return forecast(model, job, quality, device, dtype).candidates


@dataclass(frozen=True)
class Forecast:
    """All that is to be known of a job before it runs, whatever the budget; choosing a plan is then instant.

    candidates: every plan worth choosing, from the fastest to the smallest. original: what the untouched pipeline
    takes, without a cap. costs, place: what both were worked out from.
    """

    candidates: tuple[Candidate, ...]
    original: Prediction
    costs: PipelineCost
    place: Place

    def choose(self, budget: str | int | None = None) -> Candidate:
        """The fastest plan within a budget and what it takes; budget and errors as for `tune`."""
        budget_bytes = default_budget(self.place.device) if budget is None else parse_bytes(budget)
        try:
            return choose(self.candidates, self.costs, self.place, budget_bytes)
        except BudgetError as error:
            alternatives = tuple(_alternatives(self.costs, self.place, budget_bytes, error.smallest))
            jobs = " or ".join(
                f"{one.num_frames} frames of {one.height}x{one.width} ({format_up(prediction.peak_bytes)})"
                for one, prediction in alternatives
            )
            advice = f" What fits: {jobs}." if jobs else " No smaller job fits either."
            raise BudgetError(f"{error}{advice}", error.smallest, alternatives) from None

    @property
    def original_capped(self) -> Prediction:
        """What the original takes where a cap has its tensors counted too (hardware/cap.py)."""
        return predict_plan(self.costs, Plan(), self.place.capped)

    def adapted(self, job: Job, quality: Quality = "exact", device: tuple[Device, Rates] | None = None) -> Forecast:
        """What to expect of another job on the model, at once: hardly anything is measured, and the slicings are these.

        Figures are those of `forecast` for a job of the same shape, and in proportion for another one, which is right
        to a hundredth or two (cost/scaling.py). What runs have taught meanwhile is taken in.
        job: with guidance, or without it, as this one. device: another one of the same kind, with its rates.
        """
        is_same = self.costs.shape == (job.height, job.width, job.num_frames)
        costs = self.costs.for_job(job, self.costs.subject) if is_same else ScaledCost(self.costs, job)
        place = place_of(costs.subject, job, *(device or (self.place.device, self.place.rates)))
        return Forecast(
            readapted(self.candidates, costs, place, quality), predict_plan(costs, Plan(), place), costs, place
        )


def forecast(
    model: DiffusionPipeline | str,
    job: Job,
    quality: Quality = "exact",
    device: Where = None,
    dtype: torch.dtype | None = None,
    known: Forecast | None = None,
) -> Forecast:
    """What `tune`, `predict` and `frontier` have in common, for who asks again and again; arguments as for `tune`.

    known: an earlier one, whose measurements are used again where model and shape are the same, and of which the
        networks built for it are, where only the shape is another.
    """
    costs, place = situation(model, job, device, dtype)
    if known is not None:
        costs.share(known.costs)
        costs = known.costs.for_job(job, costs.subject) if known.costs.is_like(costs) else costs
    try:
        return Forecast(candidates(costs, place, quality), predict_plan(costs, Plan(), place), costs, place)
    finally:
        costs.save()


def situation(
    model: DiffusionPipeline | str, job: Job, device: Where = None, dtype: torch.dtype | None = None
) -> tuple[PipelineCost, Place]:
    """The costs of a job and the place where it will run, as the functions above use them."""
    if isinstance(model, str) and model not in planned_names():
        model = load(model, device=None if isinstance(device, tuple) else device, dtype=dtype)
    if isinstance(device, tuple):
        found, rates = device
    else:
        found = detect(model._execution_device if device is None and not isinstance(model, str) else device)
        rates = rates_of(found)
    if isinstance(model, str):
        storage = dtype if dtype == FLOAT8 else None
        subject = subject_named(model, computed_in(found.kind) if dtype is None or storage else dtype, storage)
    else:
        subject = subject_of(model)
    return PipelineCost(subject, job), place_of(subject, job, found, rates)


def place_of(subject: Subject, job: Job, device: Device, rates: Rates) -> Place:
    """Where a job runs, with what runs there have taught of it."""
    description = subject.describe()
    known = Experience(device, subject.dtype).correction(model_key(description), subject_key(description, job))
    return Place(device, rates, known)


def _alternatives(
    costs: PipelineCost, place: Place, budget_bytes: int, smallest: Candidate
) -> Iterator[tuple[Job, Prediction]]:
    """The nearest jobs that fit by the smallest plan there is: with fewer frames, and with a smaller picture."""
    job = costs.job
    fewer = [replace(job, num_frames=frames) for frames in range(job.num_frames - 1, 1, -1)]
    sizes = [(_side(job.height * share / 32), _side(job.width * share / 32)) for share in range(31, 2, -1)]
    smaller = [replace(job, height=h, width=w) for h, w in dict.fromkeys(sizes) if (h, w) != (job.height, job.width)]

    def predicted(other: Job) -> Prediction:
        return predict_plan(ScaledCost(costs, other), smallest.plan, place)

    for jobs in (fewer, smaller):  # from the largest to the smallest
        index = bisect_left(jobs, True, key=lambda other: predicted(other).peak_bytes <= budget_bytes)
        if index < len(jobs):
            yield jobs[index], predicted(jobs[index])


def _side(pixels: float) -> int:
    return max(SMALLEST_SIDE, int(pixels) // 64 * 64)
