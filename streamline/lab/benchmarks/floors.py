"""The least memory that whole pipelines take by how weights are kept, without a GPU; exact but for weights in 8 bits.

Predicted as for a plan: weights, activations, the pipeline's own tensors and the workspace of libraries, at the worst
moment of the whole pipeline; the runtime's context is left out. The original's activations are traced on the untouched
networks. Nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from ...cost.pipeline_cost import PipelineCost
from ...cost.predicting import ExecutionTarget, predict
from ...families.subject import Subject
from ...families.subjects import subject_named
from ...hardware.cards import emulate
from ...job import Job
from ...plan import Residency
from ...planning.planner import RESIDENCIES, Request, candidates_resident
from ...program.casting import FLOAT8, FLOAT8_NAME
from . import paper, results

GIB = 2**30
TABLE = "memory"


@dataclass(frozen=True)
class Floor:
    """A job whose least memory is asked for. model_offload, group_offload: goals in bytes, for either of them."""

    model: str
    height: int
    width: int
    num_frames: int
    model_offload: float | None = None
    group_offload: float | None = None

    @property
    def subject(self) -> Subject:
        """Motion modules have as many positions as there are frames, where the published ones have fewer."""
        subject = subject_named(self.model, torch.float16)
        unet = subject.configs["unet"]
        positions = unet.get("motion_max_seq_length", self.num_frames)
        if positions >= self.num_frames:
            return subject
        longer = {**unet, "motion_max_seq_length": self.num_frames}
        return replace(subject, configs={**subject.configs, "unet": longer})


FLOORS = (
    Floor("svd", 576, 1024, 14, 4.0 * GIB, 2.0 * GIB),
    Floor("svd-xt", 576, 1024, 25, 4.5 * GIB, 2.0 * GIB),
    Floor("animatediff", 576, 1024, 16, 3.2 * GIB, 2.0 * GIB),
    Floor("animatediff", 576, 1024, 64),
    Floor("svd", 1088, 1920, 14),
)


def find_floors(path: Path, card: str = paper.CARD, floors: tuple[Floor, ...] = FLOORS) -> dict:
    """Find the least memory of every job and write the result, anew after every one; returns it."""
    device, rates = emulate(card)
    result = {
        "table": TABLE,
        **results.about("cpu"),
        "modelled_device": {"name": device.name, "total_bytes": device.total_bytes},
        "dtype": "float16",
        "rows": [],
    }
    for floor in tqdm(floors, desc=TABLE, unit="job"):
        result["rows"].append(_row(floor, ExecutionTarget(device, rates)))
        results.save(path, result)
    return result


def _row(floor: Floor, target: ExecutionTarget) -> dict:
    job = Job(height=floor.height, width=floor.width, num_frames=floor.num_frames)
    costs, context = PipelineCost(floor.subject, job), target.device.context_bytes
    original = predict(costs, None, target)
    row = {
        "model": floor.model,
        "job": {"height": job.height, "width": job.width, "num_frames": job.num_frames},
        "original": {"peak_bytes": original.peak_bytes - context, "seconds": original.seconds},
        "goals": {"model offload": floor.model_offload, "group offload": floor.group_offload},
    }
    in_8_bits = PipelineCost(replace(floor.subject, storage=FLOAT8), job)
    for residency in RESIDENCIES:
        row[residency] = _least(costs, target, residency)
    row[f"model offload, {FLOAT8_NAME}"] = _least(in_8_bits, target, "model offload")
    for one in (costs, in_8_bits):
        one.save()
    return row


def _least(costs: PipelineCost, target: ExecutionTarget, residency: Residency) -> dict:
    least = candidates_resident(Request(costs, target), residency)[-1]
    worst = max(least.prediction.stages, key=lambda stage: stage.peak_bytes)
    return {
        "peak_bytes": least.prediction.peak_bytes - target.device.context_bytes,
        "seconds": least.prediction.seconds,
        "tightest_stage": worst.name,
        "plan": least.plan.to_dict(),
    }
