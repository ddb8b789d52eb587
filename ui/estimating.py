"""A first estimate of what a job takes, at once: in proportion to one whose plans are known, with nothing measured.

Activations and time follow the number of frames and pixels, weights the size of a number. It is right to about a
tenth for memory near the known job, and only ever shown until the plan itself is there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import streamline

LONG = 1024  # frames, more than any decoder takes at a time
SEEDS = Path(__file__).parent / "static" / "estimates.json"


@dataclass(frozen=True)
class Known:
    """Plans of one job that are known: guidance and prediction of each, the fastest first, the original last.

    kind: of the device; how long small models take does not carry over from one kind to another.
    at_once: frames that are decoded at a time; 0 for all.
    """

    job: streamline.Job
    kind: str
    dtype: torch.dtype
    rates: streamline.Rates
    plans: tuple[tuple[str, streamline.Prediction], ...]
    at_once: int = 0


@dataclass(frozen=True)
class Target:
    """What is to be estimated, and where it will run."""

    job: streamline.Job
    dtype: torch.dtype
    device: streamline.Device
    rates: streamline.Rates


def estimate(known: Known, target: Target) -> tuple[tuple[streamline.Prediction, ...], streamline.Prediction]:
    """Predictions of the plans worth choosing, the fastest first, and of the original."""
    *plans, original = (_scaled(known, target, guidance, one) for guidance, one in known.plans)
    kept: list[streamline.Prediction] = []
    for one in sorted(plans, key=lambda one: (one.seconds, one.peak_bytes)):
        if not kept or one.peak_bytes < kept[-1].peak_bytes:
            kept.append(one)
    return tuple(kept), original


def _scaled(known: Known, target: Target, guidance: str, prediction: streamline.Prediction) -> streamline.Prediction:
    size = target.dtype.itemsize / known.dtype.itemsize
    speed = known.rates.flops_of(known.dtype) / target.rates.flops_of(target.dtype)
    is_cpu = target.device.kind == "cpu"
    everything = max(stage.weights_bytes for _, one in known.plans for stage in one.stages)
    stages = []
    for stage in prediction.stages:
        memory, seconds, count = _factors(known, target.job, guidance, stage)
        stages.append(
            replace(
                stage,
                count=count,
                seconds=stage.seconds * seconds * speed,
                weights_bytes=round((everything if is_cpu else stage.weights_bytes) * size),
                activation_bytes=round(stage.activation_bytes * memory * size),
                kept_bytes=round(stage.kept_bytes * memory * size),
                workspace_bytes=0 if is_cpu else round(stage.workspace_bytes * memory * size),
                context_bytes=target.device.context_bytes,
            )
        )
    return replace(prediction, stages=tuple(stages), tag="modelled")


def _factors(
    known: Known, job: streamline.Job, guidance: str, stage: streamline.StagePrediction
) -> tuple[float, float, int]:
    """Of a stage's memory and of its seconds, and how often it runs."""
    before = known.job
    pixels, frames = _pixels(job) / _pixels(before), job.num_frames / before.num_frames
    name = stage.name.split(",")[0]
    if name == "denoise":
        batch = _batch(job) / _batch(before)
        steps = job.num_inference_steps / before.num_inference_steps
        count = max(1, round(stage.count * steps))
        return pixels * frames * (batch if guidance == "batched" else 1), pixels * frames * batch * steps, count
    if name == "decode":
        most = known.at_once or LONG
        at_once = min(job.num_frames, most) / min(before.num_frames, most)
        return pixels * at_once, pixels * frames, -(-job.num_frames // most)
    if name == "export":
        return pixels * frames, pixels * frames, 1
    return pixels, pixels, 1


def _pixels(job: streamline.Job) -> int:
    return job.height * job.width


def _batch(job: streamline.Job) -> int:
    return 2 if job.is_guided else 1


def known_of(forecast: streamline.Forecast) -> Known:
    """What a forecast knows."""
    plans = [(one.plan.guidance, one.prediction) for one in forecast.candidates]
    long = forecast.adapted(replace(forecast.job, num_frames=LONG)).original
    times = max((stage.count for stage in long.stages if stage.name == "decode"), default=1)
    return Known(
        forecast.job,
        forecast.device.kind,
        forecast.dtype,
        forecast.rates,
        (*plans, ("batched", forecast.original)),
        at_once=-(-LONG // times) if times > 1 else 0,
    )


def seeds() -> dict[str, list[Known]]:
    """One job of every model that is offered by name, kept in a file (seeds.py): first plans are estimated from it."""
    content = json.loads(SEEDS.read_text(encoding="utf-8"))
    return {name: [_seed(one) for one in known] for name, known in content.items()}


def _seed(data: dict) -> Known:
    return Known(
        streamline.Job.from_dict(data["job"]),
        data["kind"],
        getattr(torch, data["dtype"]),
        streamline.Rates.from_dict(data["rates"]),
        tuple((guidance, streamline.Prediction.from_dict(prediction)) for guidance, prediction in data["plans"]),
        data["at_once"],
    )
