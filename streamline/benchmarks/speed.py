"""python -m streamline.benchmarks.speed: what exact plans cost in time, at several shares of the original's memory.

The bundled models, and an SVD and an AnimateDiff of middle size with random weights, on the CPU with one thread.
The original and the plans that `tune` chooses take turns; of every one the median counts. Seconds are those the
process computed, so that other programs on the machine blur them less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
)
from PIL import Image
from transformers import CLIPImageProcessor

from ..errors import BudgetError
from ..execution.apply import apply
from ..job import Job, call_arguments
from ..models import published
from ..models.catalog import load
from ..plan import Plan
from ..planning.tuning import tune
from ..runner import run

SHARES = {"nothing to save": None, "half of the activations": 0.5, "a quarter": 0.25}
MIDDLE = {
    "unet": {"block_out_channels": (64, 128, 256, 256), "num_attention_heads": (1, 2, 4, 4)},
    "vae": {"block_out_channels": (32, 64, 128, 128)},
    "image_encoder": {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4},
    "motion_adapter": {"block_out_channels": (64, 128, 256, 256)},
}


@dataclass(frozen=True)
class Timing:
    """One plan against the original.

    activations: share of the original's that it may take. ratio: of its seconds to the original's.
    wall_ratio: likewise, by the clock on the wall. plan: None where none is that small.
    """

    model: str
    name: str
    ratio: float | None
    wall_ratio: float | None
    plan: dict | None
    original_seconds: float
    original_activation_bytes: int


def middle(model: str) -> DiffusionPipeline:
    """A published model's layers with fewer channels and random weights."""
    torch.manual_seed(0)
    if model == "svd":
        names = ("unet", "vae", "image_encoder")
        parts = {part: published.assemble(published.config(model, part) | MIDDLE[part]) for part in names}
        scheduler = EulerDiscreteScheduler(
            prediction_type="v_prediction",
            timestep_type="continuous",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        )
        pipe = StableVideoDiffusionPipeline(**parts, scheduler=scheduler, feature_extractor=CLIPImageProcessor())
    else:
        small = load("tiny-animatediff", device="cpu")
        unet = MIDDLE["unet"] | {"num_attention_heads": 4, "cross_attention_dim": 64, "motion_num_attention_heads": 4}
        pipe = AnimateDiffPipeline(
            unet=published.assemble(published.config(model, "unet") | unet),
            vae=published.assemble(published.config(model, "vae") | MIDDLE["vae"]),
            motion_adapter=None,
            text_encoder=small.text_encoder,
            tokenizer=small.tokenizer,
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        )
    for part in (pipe.unet, pipe.vae):
        part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def bundled(model: str) -> DiffusionPipeline:
    pipe = load(model, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


CASES: dict[str, tuple[Callable[[], DiffusionPipeline], dict]] = {
    "tiny-svd": (lambda: bundled("tiny-svd"), {}),
    "tiny-animatediff": (lambda: bundled("tiny-animatediff"), {"prompt": "a red circle"}),
    "middle svd": (lambda: middle("svd"), {"height": 256, "width": 256, "num_frames": 8}),
    "middle animatediff": (
        lambda: middle("animatediff"),
        {"height": 256, "width": 256, "num_frames": 8, "prompt": "a red circle"},
    ),
}


def measure(name: str, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, rounds: int) -> list[Timing]:
    """Every share of the original's activations, in turns with the original."""
    reference = run(pipe, replace(job, num_inference_steps=2), None, image)
    activations = reference.peak_bytes - reference.weights_bytes
    plans: dict[str, Plan | None] = {"original": None}
    for label, share in SHARES.items():
        budget = reference.weights_bytes + (8 * activations if share is None else round(share * activations))
        try:
            plans[label] = tune(pipe, job, budget)
        except BudgetError:
            continue
    seconds: dict[str, list[tuple[float, float]]] = {label: [] for label in plans}
    for _ in range(rounds):
        for label, plan in plans.items():
            seconds[label].append(_time(pipe, job, plan, image))
    median = {
        label: tuple(statistics.median(one) for one in zip(*pairs, strict=True)) for label, pairs in seconds.items()
    }
    computed, wall = median["original"]
    return [
        Timing(
            name,
            label,
            median[label][0] / computed if label in plans else None,
            median[label][1] / wall if label in plans else None,
            plans[label].to_dict() if label in plans else None,
            computed,
            activations,
        )
        for label in SHARES
    ]


def _time(pipe: DiffusionPipeline, job: Job, plan: Plan | None, image: Image.Image | None) -> tuple[float, float]:
    """Seconds of computing and seconds that passed, of one run in which no tensor is counted."""
    arguments = call_arguments(pipe, job, image)
    with nullcontext() if plan is None else apply(pipe, plan):
        before = time.process_time(), time.perf_counter()
        pipe(**arguments, generator=torch.Generator("cpu").manual_seed(job.seed))
        return time.process_time() - before[0], time.perf_counter() - before[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CASES, action="append", help="which (all)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of a run (4)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name in options.model or CASES:
        make, given = CASES[name]
        pipe = make()
        job = Job.for_model(pipe, num_inference_steps=options.steps, **given)
        image = Image.radial_gradient("L").convert("RGB") if "svd" in name else None
        timings = measure(name, pipe, job, image, options.rounds)
        found += timings
        for one in [] if options.json else timings:
            ratio = (
                "none is that small" if one.ratio is None else f"{one.ratio:.3f} ({one.wall_ratio:.3f} by the clock)"
            )
            print(f"{one.model:20} {one.name:24} {ratio}; original {one.original_seconds:.2f} s", flush=True)
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=2))


if __name__ == "__main__":
    main()
