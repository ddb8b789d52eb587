"""The field's own scores: CLIP score by a model that is named, and Fréchet video distance where cd-fvd is installed.

    pip install 'streamline[scores]'

cd-fvd (Ge et al.: On the Content Bias in Fréchet Video Distance, CVPR 2024) fetches the weights of its network when
it is first used. Without the package or the weights the column stays empty.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from ...errors import ModelError, quoted
from .cases import Case


class ClipScore:
    """How well frames show what a prompt says (Hessel et al.: CLIPScore, EMNLP 2021), from 0 to 100."""

    def __init__(self, model: str, device: str) -> None:
        """model: folder or hub id of a CLIP model. Raises ModelError when it cannot be loaded."""
        try:
            self._model = CLIPModel.from_pretrained(model).to(device).eval()
            self._processor = CLIPProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ModelError(f"{quoted(model)} cannot be loaded as a CLIP model.") from error

    @torch.no_grad()
    def __call__(self, frames: Sequence[Image.Image], prompt: str) -> float:
        """Mean over all frames of a video."""
        images = [frame.convert("RGB") for frame in frames]
        inputs = self._processor(text=[prompt], images=images, return_tensors="pt", truncation=True)
        found = self._model(**inputs.to(self._model.device))
        cosines = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
        return float(100 * cosines.clamp(min=0).mean())


def has_fvd() -> bool:
    """Return whether the package for Fréchet video distances is installed."""
    return find_spec("cdfvd") is not None


class Videos:
    """What methods have made in this run, kept only where their distance to real clips can be computed."""

    def __init__(self) -> None:
        self._kept: dict[str, list[np.ndarray]] = {}

    def keep(self, method: str, frames: Sequence[Image.Image]) -> None:
        """Add one video of a method."""
        if has_fvd():
            self._kept.setdefault(method, []).append(np.stack([np.asarray(frame.convert("RGB")) for frame in frames]))

    def fvd(self, method: str, cases: Sequence[Case], device: str) -> float | None:
        """To the real clips of the same scenes, by features of I3D.

        None for a method whose clips were not all made in this run, or are of no known scene.
        """
        kept = self._kept.get(method, [])
        if not kept or len(kept) != len(cases) or any(case.question is None for case in cases):
            return None
        try:
            return _fvd(kept, cases, device)
        except (OSError, RuntimeError, ValueError) as error:  # weights that cannot be fetched, clips too short
            print(f"The Fréchet video distance could not be computed: {error}", file=sys.stderr)
            return None


def _fvd(videos: Sequence[np.ndarray], cases: Sequence[Case], device: str) -> float:
    from cdfvd import fvd

    evaluator = fvd.cdfvd("i3d", ckpt_path=None, device=device)
    evaluator.add_real_stats(np.stack([(case.question.clip * 255).round().astype(np.uint8) for case in cases]))
    evaluator.add_fake_stats(np.stack(videos))
    return float(evaluator.compute_fvd_from_stats())
