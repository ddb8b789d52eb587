"""Fréchet video distance and CLIP score by the field's own implementations, where they are installed.

    pip install 'streamline[scores]'

cd-fvd (Ge et al.: On the Content Bias in Fréchet Video Distance, CVPR 2024) and torchmetrics fetch the weights of
their networks when they are first used. Without the packages or the weights the columns stay empty.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image

from .cases import Case

PACKAGES = {"fvd": "cdfvd", "clip_score": "torchmetrics"}
CLIP = "openai/clip-vit-base-patch16"


def missing() -> list[str]:
    """The scores that cannot be computed for want of a package."""
    return [score for score, package in PACKAGES.items() if find_spec(package) is None]


class Videos:
    """What methods have made in this run, kept only where a score can be computed from it."""

    def __init__(self) -> None:
        self._kept: dict[str, list[np.ndarray]] = {}
        self._computable = set(PACKAGES) - set(missing())

    def keep(self, method: str, frames: Sequence[Image.Image]) -> None:
        if self._computable:
            self._kept.setdefault(method, []).append(np.stack([np.asarray(frame.convert("RGB")) for frame in frames]))

    def scores(self, method: str, cases: Sequence[Case], device: str) -> dict[str, float]:
        """The scores of a method; none for one whose clips were not all made in this run, or are of no known scene."""
        kept = self._kept.get(method, [])
        if len(kept) != len(cases) or any(case.question is None for case in cases):
            return {}
        computed = {"fvd": lambda: _fvd(kept, cases, device), "clip_score": lambda: _clip_score(kept, cases, device)}
        found = {}
        for score in sorted(self._computable):
            try:
                value = computed[score]()
            except (OSError, RuntimeError, ValueError) as error:  # weights that cannot be fetched, clips too short
                print(f"{score} could not be computed: {error}", file=sys.stderr)
                continue
            if value is not None:
                found[score] = value
        return found


def _fvd(videos: Sequence[np.ndarray], cases: Sequence[Case], device: str) -> float:
    """To the real clips of the same scenes, by features of I3D."""
    from cdfvd import fvd

    evaluator = fvd.cdfvd("i3d", ckpt_path=None, device=device)
    evaluator.add_real_stats(np.stack([(case.question.clip * 255).round().astype(np.uint8) for case in cases]))
    evaluator.add_fake_stats(np.stack(videos))
    return float(evaluator.compute_fvd_from_stats())


def _clip_score(videos: Sequence[np.ndarray], cases: Sequence[Case], device: str) -> float | None:
    """Mean over all frames; None for models that read no prompt."""
    from torchmetrics.multimodal import CLIPScore

    if not all(case.job.prompt for case in cases):
        return None
    metric = CLIPScore(model_name_or_path=CLIP).to(device)
    for video, case in zip(videos, cases, strict=True):
        frames = torch.from_numpy(video).permute(0, 3, 1, 2).to(device)
        metric.update(frames, [case.job.prompt] * len(frames))
    return float(metric.compute())
