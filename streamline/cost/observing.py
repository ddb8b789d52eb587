"""What a run took goes back into what the next one is predicted to take."""

from __future__ import annotations

import statistics

import torch
from diffusers import DiffusionPipeline

from ..errors import UnsupportedError
from ..families.layers.plain import is_touched
from ..families.networks import autoencoder_of, denoisers_of
from ..families.subjects import subject_of
from ..hardware.detection import detect
from ..hardware.rates import rates_of
from ..job import Job
from ..plan import Plan
from .experience import Experience, Observation, model_key, run_key, subject_key
from .pipeline_cost import PipelineCost, export_work
from .predicting import ExecutionTarget, predict

COUNTED_STEPS = 2  # at the beginning of an uncapped run on a CPU, and one at its end: counting slows them down


def keep_observation(
    pipe: DiffusionPipeline,
    job: Job,
    plan: Plan,
    step_seconds: tuple[float, ...],
    decode_seconds: float,
    peak_bytes: int,
    is_capped: bool,
) -> None:
    """Keep what a run took, if its cost was predicted before: to find it out now would take longer than it is worth.

    peak_bytes: with weights, without the context of the device's runtime. is_capped: whether a budget was enforced.
    """
    if plan.residency == "group offload":  # its seconds may be the link's to host memory, not the device's
        return
    networks = (*denoisers_of(pipe), autoencoder_of(pipe))
    if any(map(is_touched, networks)):  # called whole, layers take more than is predicted
        return
    subject = subject_of(pipe)
    try:
        costs = PipelineCost(subject, job)
    except UnsupportedError:  # nobody could predict it
        return
    if not costs.is_known:
        return
    device = detect(pipe._execution_device)
    target = ExecutionTarget(device, rates_of(device), is_capped=is_capped)
    prediction = predict(costs, plan, target)
    tightest = max(prediction.stages, key=lambda stage: stage.peak_bytes)
    inside = peak_bytes - tightest.weights_bytes
    # Without a cap tensors are counted now and then on a CPU, and while it decodes (running/run.py).
    is_even = is_capped or not target.is_cpu
    observations = observations_of(costs, target, plan, step_seconds, decode_seconds if is_even else None)
    memory = inside / (tightest.activation_bytes + tightest.kept_bytes)
    Experience(device, subject.dtype).record(observations, memory)


def observations_of(
    costs: PipelineCost,
    target: ExecutionTarget,
    plan: Plan,
    step_seconds: tuple[float, ...],
    decode_seconds: float | None,
) -> list[Observation]:
    """Return an observation of the steps, and one for decoding; none for what was not measured well."""
    description = costs.subject.describe()
    model, run = model_key(description), run_key(subject_key(description, costs.job), plan)
    dtype = costs.subject.dtype
    full = [index for index in range(len(step_seconds)) if plan.rehash is None or plan.rehash.is_full(index)]
    is_even = target.is_capped or not target.is_cpu
    steps = [step_seconds[i] for i in full if is_even or COUNTED_STEPS <= i < len(step_seconds) - 1]
    found = []
    if steps:
        keep = None if plan.rehash is None else costs.denoiser.program.cache_point(plan.rehash.cut)
        work = costs.denoise(plan.denoiser, plan.guidance, keep=keep).work
        found.append(Observation(model, run, "denoise", *target.parts(work, dtype), statistics.median(steps)))
    if decode_seconds is not None:
        computing, launching = target.parts(costs.decode(plan.decoder).work * costs.decoding.times, dtype)
        after = target.parts(export_work(costs.job), torch.float32)  # is measured with it
        found.append(Observation(model, run, "decode", computing + after[0], launching + after[1], decode_seconds))
    return found
