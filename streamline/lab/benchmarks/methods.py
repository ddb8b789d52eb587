"""How to make a video: every method is a small frozen object that is called with a pipeline, a job and an image.

    result = method(pipe, job, image, count_tensors=False)

Methods of equal fields are the same method, so what one of them has measured need not be measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from diffusers import AutoencoderKL, DiffusionPipeline, StableVideoDiffusionPipeline
from PIL import Image
from torch import nn

from ...job import Job
from ...models.loading import load
from ...plan import Plan
from ...planning.tuning import tune
from ...prediction import BudgetError
from ...program.casting import FLOAT8
from ...running.events import Result
from ...running.naive import run_naive
from ...running.run import run

FRAMES_AT_ONCE = 2  # that SVD decodes when tuned by hand, as diffusers' own page on it has it


class Method(Protocol):
    """A way to make the video of a job."""

    name: str

    def __call__(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, **options: object) -> Result:
        """options: on_event and count_tensors, as `streamline.run` takes them."""

    def describe(self) -> dict:
        """Return all that makes the method what it is, ready for JSON."""


@dataclass(frozen=True)
class Original:
    """diffusers as it comes, all frames decoded at once. steps: fewer than the job's; None for the job's own."""

    name: str = "original"
    steps: int | None = None

    def __call__(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, **options: object) -> Result:
        steps = self.steps or job.num_inference_steps
        return run(pipe, replace(job, num_inference_steps=steps), None, image, **options)

    def describe(self) -> dict:
        return {"kind": "original", "steps": self.steps}


@dataclass(frozen=True)
class ByHand:
    """diffusers with the switches that its own pages recommend against want of memory.

    SVD: feed-forward layers row by row and two frames decoded at once, which is not exact. AnimateDiff: frames
    decoded one by one. On a GPU also enable_model_cpu_offload, which is left on: a pipeline that has been offloaded
    needs to be loaded anew.
    """

    name: str = "original, tuned by hand"

    def __call__(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, **options: object) -> Result:
        with tuned_by_hand(pipe) as call_options:
            return run(pipe, job, None, image, call_options=call_options, **options)

    def describe(self) -> dict:
        return {"kind": "by hand", "frames_at_once": FRAMES_AT_ONCE}


@dataclass(frozen=True)
class Naive:
    """The paper's naive slicing: clip by clip."""

    name: str = "naive slicing"

    def __call__(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, **options: object) -> Result:
        options.pop("on_event", None)  # the steps of a clip are not those of the video
        return run_naive(pipe, job, image, **options)

    def describe(self) -> dict:
        return {"kind": "naive"}


@dataclass(frozen=True)
class Streamlined:
    """This package, by a plan."""

    name: str
    plan: Plan

    def __call__(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, **options: object) -> Result:
        # A cap would count tensors on a CPU, which takes time; whether the peak keeps to the budget is measured.
        return run(pipe, job, replace(self.plan, budget_bytes=None), image, **options)

    def describe(self) -> dict:
        return {"kind": "streamlined", "plan": self.plan.to_dict()}


@dataclass(frozen=True)
class Closed:
    """This package with layers of some kinds called as black boxes: what opening them is worth.

    kinds: names of classes; of such layers, and of all that hold one, nothing is taken apart.
    """

    name: str
    plan: Plan
    kinds: tuple[str, ...]

    def __call__(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, **options: object) -> Result:
        layers = [
            layer for part in (pipe.unet, pipe.vae) for layer in part.modules() if type(layer).__name__ in self.kinds
        ]
        # Somebody who watches a layer is a reason to leave it whole.
        handles = [layer.register_forward_hook(_watch) for layer in layers]
        try:
            return run(pipe, job, self.plan, image, **options)
        finally:
            for handle in handles:
                handle.remove()

    def describe(self) -> dict:
        return {"kind": "closed", "plan": self.plan.to_dict(), "kinds": list(self.kinds)}


@dataclass(frozen=True)
class InFloat8:
    """This package, by a plan, with the denoiser's weights kept in 8 bits. The model is loaded anew for it."""

    name: str
    plan: Plan

    def __call__(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None, **options: object) -> Result:
        other = load(pipe.name_or_path, device=pipe._execution_device, dtype=FLOAT8)
        other.set_progress_bar_config(disable=True)
        return run(other, job, self.plan, image, **options)

    def describe(self) -> dict:
        return {"kind": "float8", "plan": self.plan.to_dict()}


def _watch(layer: nn.Module, inputs: tuple, output: object) -> None:
    """Sees what a layer makes, and changes nothing."""


def tuned(name: str, pipe: DiffusionPipeline, job: Job, budget_bytes: int, quality: str) -> Streamlined:
    """Return what the tuner chooses for a budget; where nothing fits, the smallest plan there is."""
    try:
        plan = tune(pipe, job, budget_bytes, quality)
    except BudgetError as error:
        plan = error.smallest.plan
    return Streamlined(name, plan)


def identity(method: Method) -> str:
    """Text that is the same for the same method, however it is called."""
    described = method.describe()
    if plan := described.get("plan"):
        described = described | {"plan": {name: value for name, value in plan.items() if name != "reasons"}}
    return json.dumps(described, sort_keys=True)


@contextmanager
def tuned_by_hand(pipe: DiffusionPipeline) -> Iterator[Mapping[str, object]]:
    """Switch diffusers' own savings on, and off again; gives the arguments that belong in the pipeline's call."""
    if pipe._execution_device.type == "cuda" and not hasattr(pipe.unet, "_hf_hook"):
        pipe.enable_model_cpu_offload()
    if isinstance(pipe, StableVideoDiffusionPipeline):
        pipe.unet.enable_forward_chunking()
        try:
            yield {"decode_chunk_size": FRAMES_AT_ONCE}
        finally:
            for module in pipe.unet.modules():  # this network has no disable_forward_chunking
                if hasattr(module, "set_chunk_feed_forward"):
                    module.set_chunk_feed_forward(None, dim=0)
        return
    assert isinstance(pipe.vae, AutoencoderKL)
    pipe.vae.enable_slicing()
    try:
        yield {}
    finally:
        pipe.vae.disable_slicing()
