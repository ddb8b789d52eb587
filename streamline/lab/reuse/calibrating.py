"""Find and measure the ways in which one model can be faster: reuse at every cut, fewer steps, other noise levels.

Paths are searched for by effects that add up (measuring.py, search.py); those worth having, and every rival without
reuse, are then run on all samples, so that what is kept was measured and not estimated.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ...errors import InputError
from ...families.naming import name_of, scheduler_key
from ...families.networks import denoisers_of, network_of
from ...plan import Plan, Rehash
from ...planning.calibrations import Calibration, Option, StepCost
from ...planning.policies import FEW_STEPS
from ...planning.tuning import predict
from ...running.run import run
from ...sampler import Sampler, takes_sigmas
from .measuring import (
    DIRECTIONS,
    CalibrationSample,
    Effects,
    Record,
    batches_of,
    effects,
    final_latents,
    record,
    relative_error,
    runs_of,
    similarity_map,
)
from .search import DAMPINGS, Path, best_paths, join

# Of the time of all steps, to find the best path for.
SPENT = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
RIVALS = (0.32, 0.4, 0.52, 0.72)  # of the steps, taken without reuse: 8, 10, 13 and 18 of 25


@dataclass(frozen=True)
class Progress:
    """How far a calibration has come: runs of one batch made, and how many there will be, and what for."""

    done: int
    total: int
    doing: str


def calibrate(
    pipe: DiffusionPipeline,
    samples: Sequence[CalibrationSample],
    cuts: Sequence[str] | None = None,
    directions: int = DIRECTIONS,
    on_progress: Callable[[Progress], object] | None = None,
) -> Calibration:
    """Measure what a model loses by being faster, at the samples' number of steps.

    samples: what to measure on; all of one number of steps, with seeds of their own. cuts: where to reuse; by default
    at every cache point that the model names.
    directions: of the changes of each step to follow; more are truer and take longer.

    Raises InputError for no samples, samples of different numbers of steps, or so few steps that none can be spared.
    """
    if not samples or len({sample.job.num_inference_steps for sample in samples}) > 1:
        raise InputError("A calibration needs samples, all of them of one number of steps.")
    denoiser = denoisers_of(pipe)[0]
    cuts = cuts or network_of(denoiser).lower(denoiser).cache_point_names
    steps = samples[0].job.num_inference_steps
    if steps <= FEW_STEPS:
        raise InputError(f"With {FEW_STEPS} steps or fewer nothing is reused, so there is nothing to calibrate.")
    batches = batches_of(samples)
    rivals = list(_rivals(pipe, steps))
    total = len(batches) * (1 + runs_of(steps, directions) + 2 * len(SPENT) + len(rivals))
    done = 0

    def count(doing: str) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(Progress(done, total, doing))

    records: list[Record] = []
    parts: list[Effects] = []
    maps: list[Tensor] = []
    for batch in batches:
        known = record(pipe, batch, cuts)
        count("recording")
        parts.append(effects(pipe, batch, known, directions=directions, on_progress=lambda: count("measuring effects")))
        maps.append(similarity_map(known, "paper" if "paper" in cuts else cuts[0]) * len(batch))
        records.append(Record(known.latents, (), {}, ()))
    levels = getattr(pipe.scheduler, "sigmas", None)  # of the run in full
    if takes_sigmas(pipe) and levels is not None:
        rivals += [Sampler.align_your_steps(one.steps, float(levels[0]), float(levels[-2])) for one in rivals]
    costs = tuple(step_cost(pipe, samples[0], cut) for cut in cuts)

    def measure(plan: Plan, doing: str) -> Option:
        errors = []
        for batch, known in zip(batches, records, strict=True):
            errors.append(relative_error(final_latents(pipe, batch, plan), known.latents))
            count(doing)
        together = torch.cat(errors)
        worst, mean = (round(float(value), 6) for value in (together.max(), together.mean()))
        return Option(plan.rehash, plan.sampler, worst, mean)

    paths = _worth_running(join(parts), costs, steps)
    options = [
        measure(Plan(rehash=Rehash(path.full_steps, path.cut, path.extrapolation)), "running the best paths")
        for path in paths
    ]
    options += [measure(Plan(sampler=sampler), "running fewer steps") for sampler in rivals]
    similarity = torch.stack(maps).sum(dim=0) / len(samples)
    return Calibration(
        name_of(pipe),
        scheduler_key(pipe.scheduler),
        steps,
        len(samples),
        tuple(options),
        tuple(tuple(round(value, 4) for value in row) for row in similarity.tolist()),
        costs,
    )


def step_cost(pipe: DiffusionPipeline, sample: CalibrationSample, cut: str) -> StepCost:
    """Return what a step that reuses costs of a full one:
    as predicted, and as measured in a run that takes both in turn."""
    steps = sample.job.num_inference_steps
    plan = Plan(rehash=Rehash((*range(0, steps, 2), steps - 1), cut))
    prediction = predict(pipe, sample.job, plan)
    full, reusing = (prediction.stage(name) for name in ("denoise", "denoise, rehash"))
    measured = run(pipe, sample.job, plan, sample.image).step_seconds
    inner = range(3, steps - 2)  # tensors are counted in the first two steps and the last, which takes time
    median = {
        is_full: statistics.median(measured[step] for step in inner if plan.rehash.is_full(step) == is_full)
        for is_full in (True, False)
    }
    predicted = (reusing.seconds / reusing.count) / (full.seconds / full.count)
    return StepCost(cut, round(predicted, 4), round(median[False] / median[True], 4))


def _rivals(pipe: DiffusionPipeline, steps: int) -> Iterator[Sampler]:
    """Fewer steps of the scheduler's own."""
    for fraction in RIVALS:
        fewer = round(fraction * steps)
        if 2 <= fewer < steps:
            yield Sampler(fewer)


def _worth_running(known: Effects, costs: Sequence[StepCost], steps: int) -> list[Path]:
    """For every share of the time the two best paths that take no more, of different cuts."""
    candidates: list[tuple[float, Path]] = []
    for cost in costs:
        for extrapolation in DAMPINGS:
            for full, path in best_paths(known, cost.cut, extrapolation).items():
                if full < steps:
                    candidates.append(((full + (steps - full) * cost.predicted) / steps, path))
    chosen: dict[Path, None] = {}
    for fraction in SPENT:
        best: dict[str, Path] = {}
        for spent, path in candidates:
            if spent <= fraction and (path.cut not in best or path.error < best[path.cut].error):
                best[path.cut] = path
        for path in sorted(best.values(), key=lambda path: path.error)[:2]:
            chosen[path] = None
    return list(chosen)
