"""How much a network's last features change from one denoising step to the next, and what reusing them costs.

Step Rehash (paper section 3.4) lives on features that hardly change. These figures say whether a model is one on
which its cost can be measured: where random weights change less than trained ones, they would understate it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from streamline.lab.recipes.sampling import Question, sample

INTERVALS = (2, 3, 5)


def last_temporal_layer(unet: nn.Module) -> nn.Module:
    """Return the temporal layer of the last up block after which the features go to the output."""
    block = unet.up_blocks[-1]
    return block.motion_modules[-1] if hasattr(block, "motion_modules") else block.attentions[-1]


@contextmanager
def watching(unet: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the features after the last temporal layer, step by step."""
    seen: list[Tensor] = []
    handle = last_temporal_layer(unet).register_forward_hook(lambda m, i, output: seen.append(_feature(output).clone()))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def reusing(unet: nn.Module, interval: int) -> Iterator[None]:
    """Give on every step the features of the last step whose number is a multiple of `interval`."""
    kept: object = None
    step = 0

    def keep_or_give(module: nn.Module, inputs: tuple, output: object) -> object:
        nonlocal kept, step
        if step % interval == 0:
            kept = output
        step += 1
        return kept

    handle = last_temporal_layer(unet).register_forward_hook(keep_or_give)
    try:
        yield
    finally:
        handle.remove()


def relative_change(pipeline: DiffusionPipeline, question: Question, steps: int) -> float:
    """Return the mean over steps of |feature - the step's before| / |feature|."""
    with watching(pipeline.unet) as seen:
        sample(pipeline, question, steps, output_type="latent")
    changes = [float((b - a).norm() / b.norm()) for a, b in pairwise(seen)]
    return float(np.mean(changes))


def untrained(pipeline: DiffusionPipeline, seed: int = 0) -> DiffusionPipeline:
    """Return the same pipeline around a denoiser with random weights."""
    torch.manual_seed(seed)
    unet = type(pipeline.unet).from_config(pipeline.unet.config).eval()
    other = type(pipeline)(**(pipeline.components | {"unet": unet}))
    other.set_progress_bar_config(disable=True)
    return other


def figures(pipeline: DiffusionPipeline, asked: list[Question], steps: int) -> dict[str, float | dict[str, float]]:
    """Return the change between neighbouring steps, trained and untrained, and the PSNR of naive reuse in decibels."""
    random = untrained(pipeline)
    ratios: dict[str, list[float]] = {str(interval): [] for interval in INTERVALS}
    for question in asked:
        original = sample(pipeline, question, steps)
        for interval in INTERVALS:
            with reusing(pipeline.unet, interval):
                reused = sample(pipeline, question, steps)
            error = max(float(np.square(reused - original).mean()), 1e-12)
            ratios[str(interval)].append(-10 * np.log10(error))
    return {
        "change_trained": float(np.mean([relative_change(pipeline, question, steps) for question in asked])),
        "change_untrained": float(np.mean([relative_change(random, question, steps) for question in asked])),
        "reuse_psnr_db": {interval: float(np.mean(values)) for interval, values in ratios.items()},
    }


def _feature(output: object) -> Tensor:
    """Return the tensor of what a layer gives: itself, or the first of a tuple or a diffusers output."""
    return output if isinstance(output, Tensor) else output[0]
