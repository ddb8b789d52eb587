"""How good the predicted seconds are, and how to make them better: run plans, compare, keep the receipts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from .apply import apply
from .experience import Experience, model_key
from .hardware import detect
from .job import Job, call_arguments
from .pipeline_cost import PipelineCost
from .plan import Plan, Slicing
from .predicting import Place, predict
from .rates import rates_of
from .receipts import COUNTED_STEPS, receipts_of
from .subject import Subject

REPEATS = 3  # the fastest counts, for what slows a run down is other programs
STEPS = 6

LEARNT_FROM = {
    "unsliced": Plan(),
    "halves apart": Plan(guidance="apart"),
    "3 slices": Plan.uniform(3, guidance="together"),
    "8 slices, apart": Plan.uniform(8),
}
CHECKED = {
    "2 slices": Plan.uniform(2, guidance="together"),
    "2 slices, apart": Plan.uniform(2),
    "4 slices": Plan.uniform(4, guidance="together"),
    "6 slices, apart": Plan.uniform(6),
    "frames 4": Plan(Slicing(4, 1), Slicing(4, 1)),
    "pixels 4": Plan(Slicing(1, 4), Slicing(1, 4)),
    "frames 8, pixels 2, apart": Plan(Slicing(8, 2), Slicing(8, 2), "apart"),
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
    def step_ratio(self) -> float:
        return self.predicted_step / self.step

    @property
    def decode_ratio(self) -> float:
        return self.predicted_decode / self.decode

    @property
    def ratio(self) -> float:
        """Of a whole run of 25 steps."""
        return (25 * self.predicted_step + self.predicted_decode) / (25 * self.step + self.decode)


def calibrate(pipe: DiffusionPipeline, job: Job, image: Image.Image | None) -> Iterator[Timing]:
    """Learn from some plans, then predict others before running them; each of the others is yielded.

    What is learnt is kept: later predictions on this device are better for it.
    """
    job = Job.from_dict(job.to_dict() | {"num_inference_steps": STEPS})
    costs = PipelineCost(Subject.of(pipe), job)
    device = detect(pipe._execution_device)
    experience = Experience(device, costs.subject.dtype)
    rates = rates_of(device)
    plain = Place(device, rates)
    for plan in LEARNT_FROM.values():
        steps, decode = measure(pipe, job, plan, image)
        step = [min(steps)] * (COUNTED_STEPS + 2)  # none of them counted
        experience.record(receipts_of(costs, plain, plan, tuple(step), decode))
    learnt = Place(device, rates, experience.correction(model_key(costs.subject.describe())))
    for name, plan in CHECKED.items():
        prediction = predict(costs, plan, learnt)
        steps, decode = measure(pipe, job, plan, image)
        denoise, after = prediction.stage("denoise"), prediction.stage("decode").seconds
        after += prediction.stage("export").seconds
        yield Timing(name, plan, min(steps), decode, denoise.seconds / denoise.count, after)
    costs.save()


def measure(
    pipe: DiffusionPipeline, job: Job, plan: Plan, image: Image.Image | None
) -> tuple[tuple[float, ...], float]:
    """Seconds of each step, the fastest of several runs, and of what follows the steps; tensors are not counted."""
    runs = [_measure_once(pipe, job, plan, image) for _ in range(REPEATS)]
    steps = tuple(min(seconds) for seconds in zip(*(steps for steps, _ in runs), strict=True))
    return steps, min(decode for _, decode in runs)


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
