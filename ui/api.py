"""The named endpoints, for programs and, with --mcp, for models: plan, generate, compare and devices."""

from __future__ import annotations

import inspect
import re
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import gradio as gr

import streamline
from streamline import Source

from . import comparing
from .fields import component
from .form import read_picture
from .models import OWN, entries
from .orders import Order, Settings
from .picture import picture_field
from .planning import Outlook
from .service import View
from .state import Studio

DEVICE = {"concurrency_id": "device", "concurrency_limit": 4}  # the service makes one at a time, whoever asks


def build(studio: Studio) -> None:
    """Add the endpoints to the page that is being built."""

    default, fields = next(iter(entries())), tuple(streamline.own_fields().values())

    def settings_of(model, prompt, steps, frames, width, height, seed, quality, budget, card, own=()) -> Settings:
        """own: values of `fields`; what a model has no use for is refused once it is to be made."""
        entry = entries().get(model)
        if entry is None:
            raise streamline.InputError(f"There is no model {str(model)[:80]!r}; there are {', '.join(entries())}.")
        source = Source("" if model == OWN else model)
        profile = studio.planner.profile(source, entry)
        given = {"num_inference_steps": steps, "num_frames": frames, "width": width, "height": height, "seed": seed}
        given = {name: whole(value) for name, value in given.items() if value}
        given |= {field.name: whole(value) for field, value in zip(fields, own, strict=False) if value is not None}
        if profile.task == "text-to-video":
            given["prompt"] = prompt
        job = replace(profile.job, **given)
        return Settings(model, source, job, quality, streamline.parse_bytes(budget) if budget else None, card)

    def plan(
        model: str = default,
        budget: str = "",
        quality: str = "exact",
        emulate: str = "",
        steps: int = 0,
        frames: int = 0,
        width: int = 0,
        height: int = 0,
    ) -> dict:
        """What a video will take, and the plan for it, without making it.

        Args:
            model: name of a model: MODELS
            budget: memory it may use, like 8GiB; empty for what is free
            quality: exact, balanced or fast
            emulate: a card to plan for, by its memory, like 8GiB; empty for what is here
            steps: denoising steps; 0 for what suits the model, as for the following
            frames: number of frames
            width: in pixels, a multiple of 8
            height: in pixels, a multiple of 8
        """
        with telling():
            settings = settings_of(model, "", steps, frames, width, height, 0, quality, budget, emulate)
            return answer(studio.planner.full_plan(settings))

    def devices() -> list[dict]:
        """The devices that videos can be made on here, with the bytes that are free and may be used."""
        return [
            device.to_dict() | {"default_budget_bytes": streamline.default_budget(device)}
            for device in streamline.detect_all()
        ]

    def generate(model, prompt, image, budget, quality, emulate, steps, frames, width, height, seed, *own):
        """Make a video within a memory budget; returns the MP4, its receipt inside, and the receipt.

        Args:
            model: name of a model, as for plan
            prompt: what the video should show, for models that start from text
            image: picture to start from, for models that start from one
            budget: memory it may use, like 8GiB; empty for what is free
            quality: exact, balanced or fast
            emulate: a card to pretend to have, by its memory, like 8GiB
            steps: denoising steps; 0 for what suits the model, as for the following
            frames: number of frames
            width: in pixels, a multiple of 8
            height: in pixels, a multiple of 8
            seed: the same seed makes the same video
            OWN
        """
        with telling():
            settings = settings_of(model, prompt, steps, frames, width, height, seed, quality, budget, emulate, own)
            outlook = studio.planner.full_plan(settings)
            owner = secrets.token_urlsafe(18)
            view = yield from make(owner, studio.planner.order(outlook, picture(model, image)), (None, None))
            run = studio.service.gallery.get(owner, view.run)
            yield str(run.video), run.receipt.to_dict()

    def compare(model, prompt, image, budget, quality, emulate, steps, frames, width, height, seed, *own):
        """Make a video twice, by the untouched pipeline and streamlined; returns what each took and their likeness.

        Args:
            model: name of a model, as for plan
            prompt: what the video should show, for models that start from text
            image: picture to start from, for models that start from one
            budget: memory the streamlined one may use, like 8GiB; empty for what is free
            quality: exact, balanced or fast
            emulate: a card to pretend to have, by its memory, like 8GiB
            steps: denoising steps; 0 for what suits the model, as for the following
            frames: number of frames
            width: in pixels, a multiple of 8
            height: in pixels, a multiple of 8
            seed: the same seed makes the same video
            OWN
        """
        with telling():
            settings = settings_of(model, prompt, steps, frames, width, height, seed, quality, budget, emulate, own)
            outlook = studio.planner.full_plan(settings)
            order = studio.planner.comparison(outlook, picture(model, image))
            view = yield from make(secrets.token_urlsafe(18), order, None)
            yield comparison(view)

    def make(owner: str, order: Order, nothing: object) -> Generator[object, None, View]:
        """Yield `nothing` until an order is done. Who cancels or leaves ends it: gradio closes what it iterates."""
        name = studio.service.submit(owner, order)
        views = studio.service.follow(owner, name)
        try:
            while (view := next(views, None)) is not None and not view.is_over:
                yield nothing
        finally:
            studio.service.cancel(owner, name)
        if view is None or view.status != "done":
            raise streamline.StreamlineError((view and view.trouble) or "It was cancelled.")
        return view

    def picture(model: str, image: str | None):
        return read_picture(image) if entries()[model].task == "image-to-video" else None

    *names, last = (name for name in entries() if name != OWN)
    plan.__doc__ = plan.__doc__.replace("MODELS", f"{', '.join(names)} or {last}")
    for endpoint in (generate, compare):
        take(endpoint, fields)
    gr.api(plan, api_name="plan", concurrency_limit=4, concurrency_id="plan")
    gr.api(devices, api_name="devices", concurrency_limit=4)
    with gr.Group(visible=False):
        inputs = [
            gr.Textbox(default, label="model"),
            gr.Textbox("", label="prompt"),
            picture_field(None, label="image"),
            gr.Textbox("", label="budget"),
            gr.Textbox("exact", label="quality"),
            gr.Textbox("", label="emulate"),
            *(gr.Number(0, label=name) for name in ("steps", "frames", "width", "height", "seed")),
            *(component(field, None) for field in fields),
        ]
        video, receipt, compared = gr.Video(label="video"), gr.JSON(label="receipt"), gr.JSON(label="comparison")
        gr.Button("generate").click(generate, inputs, [video, receipt], api_name="generate", **DEVICE)
        gr.Button("compare").click(compare, inputs, compared, api_name="compare", **DEVICE)


def take(endpoint: Callable, fields: Sequence[streamline.Field]) -> None:
    """Have the values that an endpoint takes beyond its named ones called after fields, and described."""
    signature = inspect.signature(endpoint)
    named = [one for one in signature.parameters.values() if one.kind is not one.VAR_POSITIONAL]
    own = [inspect.Parameter(field.short, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for field in fields]
    endpoint.__signature__ = signature.replace(parameters=[*named, *own])
    described = [f"{field.short}: {field.help or field.label}; for models that have it" for field in fields]
    endpoint.__doc__ = re.sub(
        r"( *)OWN\n", lambda place: "".join(f"{place[1]}{line}\n" for line in described), endpoint.__doc__
    )


def whole(number: float) -> float:
    """A number as gradio hands it on, which knows no whole ones; what is none stays, to be refused by the job."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


@contextmanager
def telling() -> Iterator[None]:
    """Tell errors of streamline to those who call, in a sentence and without a traceback in the log."""
    try:
        yield
    except streamline.StreamlineError as error:
        raise gr.Error(str(error), print_exception=False) from None


def answer(outlook: Outlook) -> dict:
    """An outlook as plain data."""
    known = {
        "feasible": outlook.plan is not None,
        "budget_bytes": outlook.budget_bytes,
        "least_bytes": outlook.least_bytes,
        "original_bytes": outlook.original.peak_bytes,
        "job": outlook.settings.job.to_dict(),
    }
    if outlook.plan is None:
        return known | {"trouble": outlook.trouble, "remedies": [remedy.label for remedy in outlook.remedies]}
    return known | {"plan": outlook.plan.to_dict(), **outlook.prediction.to_dict()}


def comparison(view: View) -> dict:
    """A comparison as plain data; of an original that did not fit only what it would need."""
    original, streamlined = view.results
    figures = {"streamlined": view.receipts[1].to_dict()}
    if original is None:
        return figures | {"original": None, "original_needs_bytes": view.order.parts[0].prediction.peak_bytes}
    psnr, ssim = comparing.likeness(original, streamlined)
    return figures | {"original": view.receipts[0].to_dict(), "psnr": psnr, "ssim": ssim}
