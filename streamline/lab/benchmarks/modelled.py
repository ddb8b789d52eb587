"""Full-size models without a GPU: traced memory and predicted time for a named card, the paper's figures beside them.

The activations of what diffusers does itself are found on the untouched networks. All that is around them (weights, the
pipeline's own tensors, workspace, the runtime's context), and all seconds, are predicted as for a plan. Nothing here is
measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from diffusers import UNetSpatioTemporalConditionModel
from torch import nn
from tqdm import tqdm

from ...cost.tracing import trace
from ...families.building import planned
from ...hardware.cards import emulate
from ...job import Job
from ...plan import Plan
from ...planning.planner import QUALITIES
from ...planning.tuning import forecast
from ...prediction import BudgetError
from . import paper, results
from .methods import FRAMES_AT_ONCE

BUDGET = "12GiB"  # a common card
TABLE = "modelled"


def model_all(path: Path, card: str = paper.CARD) -> dict:
    """Model every published model at the paper's sizes and write the result, anew after every one; returns it."""
    device, _ = emulate(card)
    result = {
        "table": TABLE,
        **results.about("cpu"),
        "modelled_device": {"name": device.name, "total_bytes": device.total_bytes},
        "budget": BUDGET,
        "num_inference_steps": 25,
        "rows": [],
    }
    todo = [(model, size) for model in paper.FRAMES for size in range(len(paper.SIZES))]
    for model, size in tqdm(todo, desc="modelled", unit="model"):
        result["rows"] += _rows(model, size, card)
        results.save(path, result)
    return result


def _rows(model: str, size: int, card: str) -> Iterator[dict]:
    height, width = paper.SIZES[size]
    job = Job(height=height, width=width, num_frames=paper.FRAMES[model])
    known = forecast(model, job, device=emulate(card))

    def row(method: str, peak: int, seconds: float, *, papers: str | None = None, plan: Plan | None = None) -> dict:
        reported = paper.TABLE_1.get((model, papers)) if papers else None
        return {
            "model": model,
            "job": {"height": height, "width": width, "num_frames": job.num_frames},
            "name": method,
            "peak_bytes": peak,
            "seconds": seconds,
            "plan": None if plan is None else plan.to_dict(),
            "paper": reported and {"gigabytes": reported.gigabytes[size], "seconds": reported.seconds[size]},
        }

    yield row("original", *_as_it_is(model, job, card), papers="original")
    yield row("original, tuned by hand", *_by_hand(model, job, card))
    clip = planned(model)[0].clip_frames
    peak, seconds = _as_it_is(model, replace(job, num_frames=clip), card)
    yield row("naive slicing", peak, seconds * -(-job.num_frames // clip), papers="naive slicing")
    for quality in QUALITIES:
        try:
            found = known.choose(BUDGET, quality)
        except BudgetError as error:
            found = error.smallest
        # The paper's own method computes 13 of 25 steps in full, as "balanced" does.
        papers = "streamlined" if quality == "balanced" else None
        name = f"streamlined, {quality}, {BUDGET}"
        yield row(name, found.prediction.peak_bytes, found.prediction.seconds, papers=papers, plan=found.plan)
    least = known.frontier("exact")[-1]
    yield row("streamlined, exact, the least", least.prediction.peak_bytes, least.prediction.seconds, plan=least.plan)


def _as_it_is(model: str, job: Job, card: str) -> tuple[int, float]:
    """Peak and seconds of the untouched pipeline."""
    original = forecast(model, job, device=emulate(card)).original
    return original.peak_bytes, original.seconds


def _by_hand(model: str, job: Job, card: str) -> tuple[int, float]:
    """Peak and seconds with diffusers' own switches (methods.ByHand)."""
    size = {"height": job.height, "width": job.width}
    denoiser = trace(model, **size, num_frames=job.num_frames, prepare=_chunk)["denoiser"]
    at_once = FRAMES_AT_ONCE if model.startswith("svd") else 1
    decoder = trace(model, **size, num_frames=at_once)["decoder"]
    plan, known = Plan(residency="model offload"), forecast(model, job, device=emulate(card))
    prediction = known.predict(plan)
    more = {
        "denoise": denoiser.peak_bytes - known.costs.denoise(plan.denoiser, plan.guidance).peak_bytes,
        "decode": decoder.peak_bytes - known.costs.decode(plan.decoder).peak_bytes,
    }
    return max(stage.peak_bytes + more.get(stage.name, 0) for stage in prediction.stages), prediction.seconds


def _chunk(network: nn.Module) -> None:
    if isinstance(network, UNetSpatioTemporalConditionModel):
        network.enable_forward_chunking()
