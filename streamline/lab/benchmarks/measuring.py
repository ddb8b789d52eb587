"""The one function that measures: every method on every case, in turns, so that ratios come from one run.

Each case is made by all methods one after the other, another one first each time; the original, made in the same
turn, is what the others are compared with. Seconds are taken while no tensor is counted; memory has runs of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from ...cache import digest_of_code
from ...running.events import Event, Step
from . import results, scoring
from .cases import Case
from .field_scores import ClipScore, Videos
from .memory import Peak, peak_in_fresh_process, peak_on_gpu
from .methods import Method, Original, identity
from .results import Records

WARM_UP_STEPS = 2
# What makes the videos, and what measures them.
CODE = ("program", "families", "weights", "planning", "applying", "running", "hardware", "output", "lab")


@dataclass(frozen=True)
class Bench:
    """What is measured on: a pipeline, how to load it anew, and the name its results are kept under.

    clip_model: folder or hub id of a CLIP model, to score how well videos show their prompts; None for no such score.
    """

    model: str
    pipe: DiffusionPipeline
    open_pipeline: Callable[[], DiffusionPipeline]
    table: str
    clip_model: str | None = None

    @property
    def device(self) -> str:
        return str(self.pipe._execution_device)

    def records(self) -> Records:
        """Return what was measured before by a benchmark of the same weights on the same device, by the same code."""
        where = results.about(self.device)
        code = digest_of_code(*CODE)
        scored = "" if self.clip_model is None else f" {self.clip_model}"
        return Records(f"{results.digest_of(self.pipe)} {where['device']} {where['versions']} {code}{scored}")


def measure(
    bench: Bench, cases: Sequence[Case], methods: Sequence[Method], path: Path, *, with_memory: bool = True
) -> dict:
    """Measure and write the result to a file, anew after every case; returns it.

    methods: the original, untouched, first. with_memory: whether their peaks are measured too.
    """
    original = methods[0]
    if not isinstance(original, Original) or original.steps is not None:
        raise ValueError("The first method is what the others are compared with: the original.")
    records = bench.records()
    is_world = all(case.question is not None for case in cases)
    real = scoring.real_features(cases) if is_world else None
    peaks = {
        method.name: peak_of(bench, records, method, cases[0])
        for method in tqdm(methods if with_memory else (), desc=f"{bench.table} {bench.model}: memory", unit="method")
    }
    warm = False
    result: dict = {}
    videos = Videos()
    clip_score = None if bench.clip_model is None else ClipScore(bench.clip_model, bench.device)
    for turn, case in enumerate(tqdm(cases, desc=f"{bench.table} {bench.model}: clips", unit="clip")):
        missing = [method for method in methods if records.get(identity(method), case.key) is None]
        if missing:
            if not warm:
                _warm_up(bench.pipe, case, missing)
                warm = True
            _measure_case(bench.pipe, case, original, _turned(missing, turn), records, videos, clip_score)
        done, real_done = cases[: turn + 1], None if real is None else real[: turn + 1]
        rows = [_row(method, peaks.get(method.name), done, records, real_done) for method in methods]
        result = {
            "table": bench.table,
            "model": bench.model,
            **results.about(bench.device),
            "clips": turn + 1,
            "scenes": len({case.scene for case in done}),
            "job": _common(cases[0]),
            "rows": rows,
        }
        results.save(path, result)
    for row, method in zip(result["rows"], methods, strict=True):
        row["fvd"] = videos.fvd(identity(method), cases, bench.device)
    results.save(path, result)
    return result


def peak_of(bench: Bench, records: Records, method: Method, case: Case) -> Peak:
    """Return the most memory a method takes, measured once."""
    name = f"peak {identity(method)}"
    known = records.get(name, case.key)
    if known is None:
        if bench.pipe._execution_device.type == "cuda":
            peak = peak_on_gpu(bench.pipe, method, case)
        else:
            peak = peak_in_fresh_process(bench.open_pipeline, method, case)
        known = peak.to_dict()
        records.add(name, case.key, known)
    return Peak(**known)


def _measure_case(
    pipe: DiffusionPipeline,
    case: Case,
    original: Original,
    methods: list[Method],
    records: Records,
    videos: Videos,
    clip_score: ClipScore | None,
) -> None:
    """Make one case by all methods; the original goes first, for the others are compared with it."""
    reference, latents = _make(pipe, case, original)
    borders = scoring.borders_of(pipe, case.job.num_frames)
    for method in {identity(method): method for method in (original, *methods)}.values():
        result, found = (reference, latents) if method == original else _make(pipe, case, method)
        figures = {
            "seconds": result.seconds,
            "denoise_seconds": sum(result.step_seconds),
            "decode_seconds": result.decode_seconds,
            "original_seconds": reference.seconds,
            **scoring.closeness(result.frames, reference.frames),
            **scoring.movement(result.frames, borders),
        }
        if found is not None and latents is not None and found.shape == latents.shape:
            figures["latent_error"] = scoring.latent_error(found, latents)
        if case.question is not None:
            figures |= scoring.judged(result.frames, case)
        if clip_score is not None and case.job.prompt:
            figures["clip_score"] = clip_score(result.frames, case.job.prompt)
        videos.keep(identity(method), result.frames)
        if records.get(identity(method), case.key) is None:  # the original may have been measured before
            records.add(identity(method), case.key, figures)


def _make(pipe: DiffusionPipeline, case: Case, method: Method) -> tuple[object, Tensor | None]:
    """The result, and the clean latents it was decoded from, where a method tells its steps."""
    last: list[Tensor] = []

    def keep(event: Event) -> None:
        if isinstance(event, Step) and event.index == event.total - 1:
            last.append(event.latents.float().cpu())

    result = method(pipe, case.job, case.image, on_event=keep, count_tensors=False)
    return result, last[0] if last else None


def _row(method: Method, peak: Peak | None, cases: Sequence[Case], records: Records, real: np.ndarray | None) -> dict:
    clips = [records.get(identity(method), case.key) for case in cases]
    seconds = [clip["seconds"] for clip in clips]
    return {
        "name": method.name,
        "method": method.describe(),
        "memory": None if peak is None else peak.to_dict(),
        "seconds": statistics.median(seconds),
        "denoise_seconds": statistics.median(clip["denoise_seconds"] for clip in clips),
        "decode_seconds": statistics.median(clip["decode_seconds"] for clip in clips),
        # Of the original made in the same turn, so that what slows a machine down for a while slows down both.
        "share_of_original": statistics.median(clip["seconds"] / clip["original_seconds"] for clip in clips),
        **scoring.summary(clips, [case.scene for case in cases], real),
    }


def _turned(methods: list[Method], turn: int) -> list[Method]:
    start = turn % len(methods)
    return methods[start:] + methods[:start]


def _warm_up(pipe: DiffusionPipeline, case: Case, methods: Sequence[Method]) -> None:
    """The first call of anything is slower than those that follow."""
    short = replace(case.job, num_inference_steps=WARM_UP_STEPS)
    for method in methods:
        method(pipe, short, case.image, count_tensors=False)


def _common(case: Case) -> dict:
    """What is the same in all cases."""
    job = case.job
    return {
        "height": job.height,
        "width": job.width,
        "num_frames": job.num_frames,
        "num_inference_steps": job.num_inference_steps,
        "guidance_scale": job.guidance_scale,
    }
