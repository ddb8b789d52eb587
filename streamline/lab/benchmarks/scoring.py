"""What a video is worth: closeness to the original's, what the judge sees in it, and how it moves.

Closeness and motion are kept for each clip; distances between distributions need all of them (`summary`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from ...output.metrics import PEAK, psnr, ssim
from ...registry import family_of
from ..recipes import judge
from .cases import Case


def closeness(frames: Sequence[Image.Image], original: Sequence[Image.Image]) -> dict[str, float]:
    """Mean squared error in squares of 255ths, and structural similarity, both over all frames."""
    errors = [PEAK**2 / 10 ** (ratio / 10) for ratio in psnr(frames, original)]  # of infinity this is 0
    return {"squared_error": float(np.mean(errors)), "ssim": float(np.mean(ssim(frames, original)))}


def latent_error(latents: Tensor, original: Tensor) -> float:
    """Relative error of the clean latents that the last step arrives at."""
    return float((latents - original).norm() / original.norm())


def movement(frames: Sequence[Image.Image], borders: Sequence[int]) -> dict[str, float]:
    """Mean change of a pixel from frame to frame, of 255, at the borders of clips and elsewhere.

    borders: indices of the frames that naive slicing would begin a clip with.
    """
    pixels = np.stack([np.asarray(frame.convert("RGB"), np.float64) for frame in frames])
    changes = np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2, 3))
    at_border = np.isin(np.arange(1, len(frames)), borders)
    inside, across = changes[~at_border], changes[at_border]
    return {
        "change_inside": float(inside.mean()) if inside.size else 0.0,
        "change_across": float(across.mean()) if across.size else 0.0,
    }


def borders_of(pipe: DiffusionPipeline, num_frames: int) -> tuple[int, ...]:
    """Return the frames that naive slicing begins a clip with, but for the first."""
    length = family_of(pipe).clip_frames
    return tuple(range(length, num_frames, length))


def judged(frames: Sequence[Image.Image], case: Case) -> dict:
    """Return what the judge sees: features for a Fréchet distance,
    and for each label whether it is as it was asked for."""
    video = np.stack([np.asarray(frame.convert("RGB"), np.float32) / PEAK for frame in frames])
    referee = _referee()
    features = referee.features_of([video])
    agreed = judge.agreement(referee.read(features), [judge.labelled(case.question.scene)])
    return {"features": [round(float(value), 5) for value in features[0]], "agreed": agreed}


def real_features(cases: Sequence[Case]) -> np.ndarray:
    """Return the judge's features of the real clips of the scenes that are asked for, one a case."""
    return _referee().features_of([case.question.clip for case in cases])


def summary(clips: Sequence[dict], scenes: Sequence[int], real: np.ndarray | None) -> dict:
    """Return the scores of a method from those of its clips; a score that some clip lacks is left out.

    scenes: number of the scene of each. real: features of the real clips of these; None where the judge has no say.
    """
    found: dict = {"clips": len(clips)}
    if all("squared_error" in clip for clip in clips):
        error = float(np.mean([clip["squared_error"] for clip in clips]))
        found["psnr"] = 10 * math.log10(PEAK**2 / error) if error else None  # None: the same video
        found["ssim"] = float(np.mean([clip["ssim"] for clip in clips]))
    if all("latent_error" in clip for clip in clips):
        errors = [clip["latent_error"] for clip in clips]
        found["latent_error"] = {
            "mean": float(np.mean(errors)),
            "worst": float(np.max(errors)),
            "spread": float(np.std(errors)),
            "over_seeds": spread_over_seeds(errors, scenes),
        }
    if all("clip_score" in clip for clip in clips):
        found["clip_score"] = float(np.mean([clip["clip_score"] for clip in clips]))
    inside = float(np.mean([clip["change_inside"] for clip in clips]))
    across = float(np.mean([clip["change_across"] for clip in clips]))
    found["border_jump"] = across / inside if inside else None
    if all("features" in clip for clip in clips):
        agreed = {name: float(np.mean([clip["agreed"][name] for clip in clips])) for name in judge.LABELS}
        found["agreement"] = agreed | {"mean": float(np.mean(list(agreed.values())))}
        if real is not None and len(clips) > 1:
            features = np.array([clip["features"] for clip in clips])
            found["frechet_distance"] = judge.frechet_distance(real, features)
    return found


def spread_over_seeds(values: Sequence[float], scenes: Sequence[int]) -> float | None:
    """Standard deviation of what seeds make of the same scene, pooled over scenes; None where none has two seeds."""
    groups = [[v for v, scene in zip(values, scenes, strict=True) if scene == one] for one in sorted(set(scenes))]
    variances = [(np.var(group, ddof=1), len(group) - 1) for group in groups if len(group) > 1]
    if not variances:
        return None
    return math.sqrt(sum(var * free for var, free in variances) / sum(free for _, free in variances))


@cache
def _referee() -> judge.Judge:
    return judge.load()
