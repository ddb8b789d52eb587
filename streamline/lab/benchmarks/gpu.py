"""Full-size networks on a GPU, in under eight minutes: parity, peaks against their prediction, and latency.

Real weights are used where they are on the machine, else random ones of the true configuration. A few steps stand
for all of them, which are alike; the first is a warm-up. `rehearse` does the same with small networks on any device.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from ...cost.tracing import cast_arguments
from ...errors import OutOfMemory, telling_out_of_memory
from ...families.base import Shape
from ...families.naming import models
from ...families.networks import denoisers_of, network_of
from ...families.running import run_network
from ...job import Job
from ...models.loading import load
from ...plan import Plan
from ...planning.tuning import predict
from ...running.events import Event, Step
from ..recipes.sampling import is_from_image
from . import paper, results
from .memory import card_peak
from .methods import Method, Original, Streamlined, tuned
from .random_pipelines import SMALL, random_pipeline
from .tables import smallest

TABLE = "gpu"
MINUTES = 7.5
STEPS, PAPER_STEPS = 4, 25
PROMPT = "a red circle moving left on a black background"
SMALL_MODELS, SMALL_SIZES, SMALL_FRAMES = ("svd", "animatediff"), ((64, 128),), 4


def measure_gpu(path: Path, device: str = "cuda", *, rehearse: bool = False, minutes: float = MINUTES) -> dict:
    """Measure what there is time for, and write the result anew after every row; returns it.

    What the time did not suffice for, or the card was too small for, is listed under "left_out".
    """
    end = time.monotonic() + 60 * minutes
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    with card_peak(torch.device(device)) as before:
        pass
    result = {
        "table": TABLE,
        **results.about(device),
        "rehearsal": rehearse,
        "dtype": str(dtype).removeprefix("torch."),
        "num_inference_steps": PAPER_STEPS,
        "steps_measured": STEPS,
        "parity": [],
        "rows": [],
        "left_out": [],
    }
    for model in SMALL_MODELS if rehearse else paper.FRAMES:
        if time.monotonic() > end:
            result["left_out"].append({"model": model, "name": "all", "reason": "no time left"})
            continue
        frames = SMALL_FRAMES if rehearse else paper.FRAMES[model]
        pipe, weights = _pipeline(model, device, dtype, rehearse)
        sizes = SMALL_SIZES if rehearse else paper.SIZES
        is_here = denoisers_of(pipe)[0].device == pipe._execution_device  # it is called without the pipeline
        if time.monotonic() < end and is_here:
            try:
                with telling_out_of_memory():
                    result["parity"].append({"model": model, **parity(pipe, frames, *sizes[0])})
            except OutOfMemory as error:
                result["left_out"].append({"model": model, "name": "parity", "reason": str(error)})
        for height, width in sizes:
            job = Job.for_model(pipe, height=height, width=width, num_frames=frames, num_inference_steps=STEPS)
            for row in _rows(pipe, job, before.started_bytes, end):
                row = {"model": model, "height": height, "width": width, "num_frames": frames, **row}
                result["rows" if "seconds" in row else "left_out"].append(row | {"weights": weights})
                results.save(path, result)
        del pipe
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    results.save(path, result)
    return result


@torch.no_grad()
def parity(pipe: DiffusionPipeline, frames: int, height: int, width: int) -> dict[str, float | None]:
    """Relative errors of one call of the denoiser, of the largest absolute difference to the largest value.

    float32: sliced against untouched, without TF32. half, half_original: the sliced and the untouched network in the
    pipeline's own type, against the untouched one in float32; both err alike where slicing adds nothing.
    """
    denoiser = denoisers_of(pipe)[0]
    dtype = denoiser.dtype
    shape = Shape(2, frames, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    generator = torch.Generator("cpu").manual_seed(0)
    arguments = {
        name: torch.randn(value.shape, generator=generator) if value.ndim else value
        for name, value in network_of(denoiser).example(denoiser, shape).items()
    }
    arguments = {name: value.to(denoiser.device) for name, value in arguments.items()}
    plan = Plan.uniform(4)

    def call(sliced: bool) -> Tensor:
        given = cast_arguments(arguments, denoiser.dtype)
        output = run_network(denoiser, plan.denoiser, True, **given) if sliced else denoiser(**given)
        return output.sample.float()

    half, half_original = call(True), call(False)
    with _without_tf32():
        nn.Module.float(denoiser)  # diffusers' own warns without need
        try:
            sliced, original = call(True), call(False)
        finally:
            nn.Module.to(denoiser, dtype)

    def error(value: Tensor) -> float | None:
        found = float((value - original).abs().max() / original.abs().max())
        return found if found == found else None  # random weights may overflow in half precision

    return {"float32": error(sliced), "half": error(half), "half_original": error(half_original)}


def _rows(pipe: DiffusionPipeline, job: Job, baseline: int | None, end: float) -> Iterator[dict]:
    """A row for every method: what it took, or why it was left out."""
    reference: Tensor | None = None
    for make in _methods(pipe, job):
        if time.monotonic() > end:
            yield {"name": "the rest", "reason": "no time left"}
            return
        method = make()
        if time.monotonic() > end:
            yield {"name": method.name, "reason": "no time left"}
            return
        try:
            row, latents = _measure(pipe, job, method, baseline)
        except OutOfMemory as error:
            yield {"name": method.name, "reason": str(error)}
            continue
        if isinstance(method, Original):
            reference = latents
        elif reference is not None and bool(torch.isfinite(reference).all()):
            row["error"] = float((latents - reference).norm() / reference.norm())
        yield row


def _methods(pipe: DiffusionPipeline, job: Job) -> Iterator:
    """Made one by one, for planning takes time too."""
    yield Original
    yield lambda: Streamlined("exact, nothing to save", Plan())
    yield lambda: tuned("exact, 8 GiB", pipe, job, 8 * 2**30, "exact")
    yield lambda: tuned("balanced, 8 GiB", pipe, job, 8 * 2**30, "balanced")
    yield lambda: Streamlined("exact, the least", smallest(pipe, job))


def _measure(pipe: DiffusionPipeline, job: Job, method: Method, baseline: int | None) -> tuple[dict, Tensor]:
    device = pipe._execution_device
    is_gpu = device.type == "cuda"
    last: list[Tensor] = []

    def keep(event: Event) -> None:
        if isinstance(event, Step) and event.index == event.total - 1:
            last.append(event.latents.float().cpu())

    image = Image.radial_gradient("L").convert("RGB") if is_from_image(pipe) else None
    job = Job.from_dict(job.to_dict() | ({} if image else {"prompt": PROMPT}))
    gc.collect()
    if is_gpu:
        torch.cuda.empty_cache()
    with card_peak(device) as card:
        result = method(pipe, job, image, on_event=keep)
    predicted = None
    if isinstance(method, Streamlined):
        prediction = predict(pipe, job, method.plan)
        predicted = max(stage.peak_bytes - stage.context_bytes for stage in prediction.stages)
    seconds = list(result.step_seconds[1:])
    full = method.plan.rehash.full_steps if isinstance(method, Streamlined) and method.plan.rehash else None
    step = statistics.mean(seconds) if full else statistics.median(seconds)
    return {
        "name": method.name,
        "method": method.describe(),
        "tensor_bytes": result.peak_bytes,
        "weights_bytes": result.weights_bytes,
        "card_bytes": None if card.peak_bytes is None or baseline is None else card.peak_bytes - baseline,
        "predicted_bytes": predicted,
        "step_seconds": step,
        "decode_seconds": result.decode_seconds,
        "seconds": PAPER_STEPS * step + result.decode_seconds,
        "error": None,
    }, last[0]


def _pipeline(model: str, device: str, dtype: torch.dtype, rehearse: bool) -> tuple[DiffusionPipeline, str]:
    known = {one.name: one for one in models()}
    if not rehearse and known[model].is_here:
        pipe = load(model, device=device, dtype=dtype, offline=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe, "the model's own"
    return random_pipeline(model, device, dtype, SMALL if rehearse else {}), "random"


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
