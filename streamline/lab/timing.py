"""How good the predicted seconds are, and how to make them better: run plans, compare, keep what was measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..applying.apply import apply
from ..cost.experience import Experience, model_key
from ..cost.observing import COUNTED_STEPS, observations_of
from ..cost.pipeline_cost import PipelineCost
from ..cost.predicting import ExecutionTarget, predict
from ..families.networks import call_arguments
from ..families.subjects import subject_of
from ..hardware.detection import detect
from ..hardware.rates import rates_of
from ..job import Job
from ..plan import Plan, Slicing

ROUNDS = 4
STEPS = 6

LEARNT_FROM = {
    "unsliced": Plan(),
    "sequential guidance": Plan(guidance="sequential"),
    "3 slices": Plan.uniform(3, guidance="batched"),
    "8 slices, sequential": Plan.uniform(8),
}
CHECKED = {
    "2 slices": Plan.uniform(2, guidance="batched"),
    "2 slices, sequential": Plan.uniform(2),
    "4 slices": Plan.uniform(4, guidance="batched"),
    "6 slices, sequential": Plan.uniform(6),
    "frames 4": Plan(Slicing(4, 1), Slicing(4, 1)),
    "pixels 4": Plan(Slicing(1, 4), Slicing(1, 4)),
    "frames 8, pixels 2, sequential": Plan(Slicing(8, 2), Slicing(8, 2), "sequential"),
    "groups of 2": Plan(Slicing(4, 4, 2), Slicing(4, 4, 2)),
    "outer blocks": Plan({"down.0": Slicing(4, 4)}, {"up.3": Slicing(8, 8)}),
}


@dataclass(frozen=True)
class Timing:
    """Seconds of one denoising step and of decoding, by a plan."""

    name: str
    plan: Plan
    step: float
    decode: float
    predicted_step: float
    predicted_decode: float

    @property
    def ratio(self) -> float:
        """Of a whole run of 25 steps."""
        return (25 * self.predicted_step + self.predicted_decode) / (25 * self.step + self.decode)


def calibrate(pipe: DiffusionPipeline, job: Job, image: Image.Image | None) -> list[Timing]:
    """Time plans, learn from some of them, and predict the others, which are returned.

    What is learnt is kept: later predictions on this device are better for it.
    """
    job = Job.from_dict(job.to_dict() | {"num_inference_steps": STEPS})
    costs = PipelineCost(subject_of(pipe), job)
    device = detect(pipe._execution_device)
    experience = Experience(device, costs.subject.dtype)
    rates = rates_of(device)
    plain = ExecutionTarget(device, rates)
    measured = measure(pipe, job, LEARNT_FROM | CHECKED, image)
    for name, plan in LEARNT_FROM.items():
        step, decode = measured[name]
        steps = (step,) * (COUNTED_STEPS + 2)  # tensors were counted in none of them
        experience.record(observations_of(costs, plain, plan, steps, decode))
    learnt = ExecutionTarget(device, rates, experience.correction(model_key(costs.subject.describe())))
    timings = []
    for name, plan in CHECKED.items():
        prediction = predict(costs, plan, learnt)
        denoise, decode = prediction.stage("denoise"), prediction.stage("decode").seconds
        decode += prediction.stage("export").seconds
        timings.append(Timing(name, plan, *measured[name], denoise.seconds / denoise.count, decode))
    costs.save()
    return timings


def measure(
    pipe: DiffusionPipeline, job: Job, plans: dict[str, Plan], image: Image.Image | None
) -> dict[str, tuple[float, float]]:
    """Return seconds of one step and of what follows the last one, by plan; tensors are not counted.

    All plans take turns, and the fastest turn counts, for what slows one down is other programs.
    """
    fastest: dict[str, tuple[float, float]] = {}
    for _ in range(ROUNDS):
        for name, plan in plans.items():
            steps, decode = _measure_once(pipe, job, plan, image)
            best = fastest.get(name, (math.inf, math.inf))
            fastest[name] = (min(best[0], *steps), min(best[1], decode))
    return fastest


def _measure_once(
    pipe: DiffusionPipeline, job: Job, plan: Plan, image: Image.Image | None
) -> tuple[list[float], float]:
    marks: list[float] = []

    def mark(pipe: DiffusionPipeline, index: int, timestep: object, tensors: dict) -> dict:
        if pipe._execution_device.type == "cuda":
            torch.cuda.synchronize(pipe._execution_device)
        marks.append(time.perf_counter())
        return tensors

    with apply(pipe, plan):
        generator = torch.Generator("cpu").manual_seed(job.seed)
        pipe(**call_arguments(pipe, job, image), generator=generator, callback_on_step_end=mark)
    end = time.perf_counter()
    return [b - a for a, b in pairwise(marks)], end - marks[-1]
