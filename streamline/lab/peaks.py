"""How good predicted memory is: plans run on the CPU, with data, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from ..applying.apply import apply
from ..cost.predicting import ExecutionTarget, predict
from ..families.networks import call_arguments
from ..hardware.live_tensors import LiveTensors
from ..hardware.process_memory import peak_bytes, reset_peak
from ..job import Job
from ..plan import Plan
from ..planning.tuning import forecast

STEPS = 3  # what one step leaves for the next is there from the second on

Opened = tuple[DiffusionPipeline, Job, Image.Image | None]


@dataclass(frozen=True)
class Peak:
    """The most that one plan held, in bytes, weights included.

    predicted_bytes: by the tables alone, whatever earlier runs have taught. live_bytes: tensors, counted.
    process_bytes: of the whole process, interpreter and libraries included. started_bytes: the part of them that
        it held when the pipeline was loaded and not yet called. Both are None where the system does not tell.
    """

    name: str
    plan: Plan
    predicted_bytes: int
    live_bytes: int
    process_bytes: int | None
    started_bytes: int | None

    @property
    def ratio(self) -> float:
        return self.predicted_bytes / self.live_bytes


def peaks(open_pipeline: Callable[[], Opened], plans: Mapping[str, Plan]) -> Iterator[Peak]:
    """Predict each plan and run it.

    open_pipeline: loads a pipeline on the CPU, with the job and the image that it is for. It is called in each
        process anew, so it must be a function that pickle knows.
    """
    pipe, job, _ = open_pipeline()
    known = forecast(pipe, _short(job), device="cpu")
    costs, target = known.costs, ExecutionTarget(known.device, known.rates)
    for name, plan in plans.items():
        predicted = predict(costs, plan, target).peak_bytes
        # Not one pool for all: memory that one run has freed is not given back for the next to need again.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            yield Peak(name, plan, predicted, *fresh.submit(_measure, open_pipeline, plan).result())
    costs.save()


def _measure(open_pipeline: Callable[[], Opened], plan: Plan) -> tuple[int, int | None, int | None]:
    pipe, job, image = open_pipeline()
    memory = LiveTensors([part for part in pipe.components.values() if isinstance(part, nn.Module)])
    arguments = call_arguments(pipe, _short(job), image)
    started = reset_peak()
    with apply(pipe, plan), memory:
        generator = torch.Generator("cpu").manual_seed(job.seed)
        pipe(**arguments, generator=generator, callback_on_step_end=_as_in_a_run)
    return memory.weights_bytes + memory.peak_bytes, None if started is None else peak_bytes(), started


def _as_in_a_run(pipe: DiffusionPipeline, step: int, timestep: object, tensors: dict) -> dict:
    """Runs are watched by a callback, for which the pipeline holds more."""
    return tensors


def _short(job: Job) -> Job:
    return replace(job, num_inference_steps=min(STEPS, job.num_inference_steps))
