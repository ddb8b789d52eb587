"""Fréchet video distance and CLIP score by the field's own implementations, where they are installed.

    pip install 'streamline[scores]'

cd-fvd (Ge et al.: On the Content Bias in Fréchet Video Distance, CVPR 2024) and torchmetrics fetch the weights of
their networks when they are first used. Without them the columns stay empty, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch

PACKAGES = {"fvd": "cdfvd", "clip_score": "torchmetrics"}
CLIP = "openai/clip-vit-base-patch16"


def missing() -> list[str]:
    """The scores that cannot be computed for want of a package."""
    return [score for score, package in PACKAGES.items() if find_spec(package) is None]


def field_scores(videos: np.ndarray, real: np.ndarray, prompts: Sequence[str] | None, device: str) -> dict[str, float]:
    """Those scores whose packages are installed; OSError of a download that fails is the caller's to tell.

    videos, real: (videos, frames, height, width, 3) of uint8. prompts: one a video; None for models that read none.
    """
    found = {}
    absent = missing()
    if "fvd" not in absent:
        from cdfvd import fvd

        evaluator = fvd.cdfvd("i3d", ckpt_path=None, device=device)
        evaluator.add_real_stats(real)
        evaluator.add_fake_stats(videos)
        found["fvd"] = float(evaluator.compute_fvd_from_stats())
    if "clip_score" not in absent and prompts is not None:
        from torchmetrics.multimodal import CLIPScore

        metric = CLIPScore(model_name_or_path=CLIP).to(device)
        for video, prompt in zip(videos, prompts, strict=True):
            frames = torch.from_numpy(video).permute(0, 3, 1, 2).to(device)
            metric.update(frames, [prompt] * len(frames))
        found["clip_score"] = float(metric.compute())
    return found
