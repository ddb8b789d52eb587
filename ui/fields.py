"""The fields that say what to make: their layout, how they follow the model, and how they are filled in again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

import streamline

from . import words
from .form import EMULATED, FIELDS
from .models import OWN, Entry, Profile, entries
from .orders import Settings
from .picture import picture_field
from .style import html, read

ASSETS = Path(__file__).parents[1] / "assets"
PROMPTS = (
    "a red circle moving left on a black background",
    "a red triangle bouncing on a white background",
    "a blue star moving right on a navy background",
)
PICTURES = sorted(map(str, (ASSETS / "examples").glob("*.png")))
QUALITY_CHOICES = (
    ("Exact: the original’s video", "exact"),
    ("Balanced: faster, close to it", "balanced"),
    ("Fast: fastest, less close", "fast"),
)
FREE_SIZE = "Another size"
GROUPS = {
    "model": ("model",),
    "prompt": ("prompt",),
    "image": ("image",),
    "shape": ("width", "height", "frames", "steps"),
    "seed": ("seed",),
    "more": ("guidance", "motion", "fps", "noise"),
    "budget": ("budget", "quality"),
}


@dataclass(frozen=True)
class Fields:
    """All fields by their names in `form.FIELDS`, and what belongs to them.

    notes: below each group of fields. slider: of the budget; the text beside it is the field itself.
    """

    by_name: dict[str, gr.components.Component]
    notes: dict[str, gr.HTML]
    slider: gr.HTML
    budget_hint: gr.HTML
    size: gr.Dropdown
    text_input: gr.Column
    image_input: gr.Column
    halves: gr.Column
    folder: gr.Column
    motion_input: gr.Row
    free_size: gr.Row
    keep_seed: gr.Checkbox

    @property
    def inputs(self) -> list[gr.components.Component]:
        """In the order of `form.FIELDS`."""
        return [self.by_name[name] for name in FIELDS]

    @property
    def shape(self) -> list:
        """What `follow_model` sets."""
        names = ("width", "height", "frames", "steps", "guidance", "fps", "budget")
        return [
            *(self.by_name[name] for name in names),
            self.size,
            self.text_input,
            self.image_input,
            self.halves,
            self.folder,
            self.motion_input,
            self.by_name["model"],
        ]


def build(card: str = "") -> Fields:
    """Lay the fields out, in whatever column this is called. card: emulated from the beginning."""
    offers = entries()
    first = next(iter(offers.values()))
    notes: dict[str, gr.HTML] = {}

    def note(name: str) -> None:
        notes[name] = html("", elem_classes="note", elem_id=f"note-{name}")

    with gr.Group():
        model = gr.Dropdown(
            [(label_of(entry), name) for name, entry in offers.items()],
            value=first.name,
            label="Model",
            info=first.about,
            elem_id="model",
        )
    note("model")
    with gr.Column(visible=False) as folder:
        own = gr.Textbox("", label="Folder or hub id", placeholder="/models/my-video-model, or organisation/name")
    with gr.Column(visible=False) as halves, gr.Accordion("Other halves for AnimateDiff", open=False):
        base = gr.Textbox("", label="Image model", placeholder="stable-diffusion-v1-5/stable-diffusion-v1-5")
        motion_adapter = gr.Textbox("", label="Motion adapter", placeholder="guoyww/animatediff-motion-adapter-v1-5-3")
    with gr.Column(visible=True) as text_input:
        prompt = gr.Textbox(PROMPTS[0], label="What should it show?", lines=2, max_lines=5, elem_id="prompt")
        note("prompt")
        gr.Examples([[text] for text in PROMPTS], prompt, label="Try one of these")
    with gr.Column(visible=False) as image_input:
        image = picture_field(
            PICTURES[0],
            label="Picture to start from",
            height=220,
            sources=["upload", "clipboard", "webcam"],
            elem_id="picture",
        )
        note("image")
        gr.Examples([[picture] for picture in PICTURES], image, label="Try one of these")
    with gr.Group():
        with gr.Row():
            size = gr.Dropdown(sizes_of(first), value=size_label(first.sizes[0]), label="Size", min_width=150)
            frames = gr.Number(8, label="Frames", min_width=90, elem_id="frames")
            steps = gr.Number(25, label="Steps", info="more: finer, slower", min_width=90, elem_id="steps")
        with gr.Row(visible=False) as free_size:
            width = gr.Number(first.sizes[0][0], label="Width in pixels", min_width=120, elem_id="width")
            height = gr.Number(first.sizes[0][1], label="Height in pixels", min_width=120, elem_id="height")
    note("shape")
    with gr.Row(elem_classes="seedrow", equal_height=True):
        seed = gr.Number(
            2, label="Seed", info="the same seed makes the same video", min_width=130, scale=3, elem_id="seed"
        )
        keep_seed = gr.Checkbox(True, label="Keep it", min_width=90, scale=1, elem_id="keep-seed")
        dice = gr.Button("Roll dice", min_width=90, scale=1, elem_id="dice")
    note("seed")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        negative_prompt = gr.Textbox("", label="What should it not show?")
        with gr.Row():
            guidance = gr.Number(3.0, label="Guidance", info="how closely to follow", min_width=110)
            fps = gr.Number(8, label="Frames a second", min_width=110)
        with gr.Row(visible=False) as motion_input:
            motion = gr.Number(127, label="Motion", info="0 still, 255 lively", min_width=110)
            noise = gr.Number(0.02, label="Freedom", info="noise on the picture", min_width=110)
    note("more")
    with gr.Group(elem_id="memory"):
        slider = html("", js_on_load=read("budget.js"), padding=True, elem_id="budget-slider")
    note("budget")
    budget_hint = html("", elem_classes="hint")
    quality = gr.Radio(list(QUALITY_CHOICES), value="exact", label="Quality", elem_id="quality")
    with gr.Accordion("Type a budget, or try another card", open=bool(card), elem_id="budget-more"):
        budget = gr.Textbox("", label="Memory budget", placeholder="8GiB", elem_id="budget")
        card_field = gr.Dropdown(
            [("what is here", ""), *((f"a {one.replace('GiB', ' GiB')} card", one) for one in EMULATED)],
            value=card,
            label="Pretend to have",
            allow_custom_value=True,
            elem_id="card",
        )
    by_name = {
        "model": model, "own": own, "base": base, "motion_adapter": motion_adapter, "prompt": prompt,
        "negative_prompt": negative_prompt, "image": image, "width": width, "height": height, "frames": frames,
        "steps": steps, "guidance": guidance, "motion": motion, "fps": fps, "noise": noise, "seed": seed,
        "quality": quality, "card": card_field, "budget": budget,
    }  # fmt: skip
    fields = Fields(by_name, notes, slider, budget_hint, size, text_input, image_input, halves, folder, motion_input,
                    free_size, keep_seed)  # fmt: skip
    dice.click(lambda: random.randrange(2**32), None, seed, api_visibility="private", show_progress="hidden")
    return fields


def follow_size(label: str) -> tuple:
    """A preset sets both sides; another size shows them."""
    if label == FREE_SIZE:
        return gr.skip(), gr.skip(), gr.update(visible=True)
    width, height = map(int, label.split(" × "))
    return width, height, gr.update(visible=False)


def follow_model(entry: Entry, profile: Profile) -> list:
    """What a model is made for, in the order of `Fields.shape`."""
    job = profile.job
    is_text = profile.task == "text-to-video"
    presets = sizes_of(entry)
    label = size_label((job.width, job.height))
    if label not in presets:
        presets = [label, *presets]
    return [
        job.width,
        job.height,
        job.num_frames,
        job.num_inference_steps,
        job.guidance_scale if job.guidance_scale is not None else 7.5,
        job.fps,
        "",
        gr.update(choices=presets, value=label),
        gr.update(visible=is_text),
        gr.update(visible=not is_text),
        gr.update(visible=entry.name == "animatediff"),
        gr.update(visible=entry.name == OWN),
        gr.update(visible=not is_text),
        gr.update(info=entry.about),
    ]


def follow_unknown(entry: Entry) -> list:
    """What can be said of a model that cannot be had, in the order of `Fields.shape`."""
    is_image = entry.task == "image-to-video"
    return [
        *[gr.skip()] * 8,
        gr.update(visible=not is_image),
        gr.update(visible=is_image),
        gr.update(visible=entry.name == "animatediff"),
        gr.update(visible=entry.name == OWN),
        gr.update(visible=is_image),
        gr.update(info=entry.about),
    ]


def fill(settings: Settings, entry: Entry, profile: Profile, image: str | None) -> dict[str, object]:
    """Values by field that make the fields say these settings."""
    job = settings.job
    is_text = profile.task == "text-to-video"
    values: dict[str, object] = {
        "model": gr.update(value=settings.model, info=entry.about),
        "own": settings.source.name if settings.model == OWN else "",
        "base": settings.source.base,
        "motion_adapter": settings.source.motion_adapter,
        "negative_prompt": job.negative_prompt,
        "width": job.width,
        "height": job.height,
        "frames": job.num_frames,
        "steps": job.num_inference_steps,
        "guidance": job.guidance_scale,
        "motion": job.motion_bucket_id,
        "fps": job.fps,
        "noise": job.noise_aug_strength,
        "seed": job.seed,
        "quality": settings.quality,
        "card": settings.card,
        "budget": str(settings.budget_bytes or ""),
    }
    if is_text:
        values["prompt"] = job.prompt
    elif image is not None:
        values["image"] = image
    return values


def notes_by_group(notes: Mapping[str, str]) -> dict[str, str]:
    """For every group of fields the first sentence about one of them."""
    return {
        group: next(notes[name] for name in names if name in notes)
        for group, names in GROUPS.items()
        if any(name in notes for name in names)
    }


def label_of(entry: Entry) -> str:
    return entry.label if entry.is_here else f"{entry.label} (to be downloaded)"


def sizes_of(entry: Entry) -> list[str]:
    return [*map(size_label, entry.sizes), FREE_SIZE]


def size_label(size: Sequence[int]) -> str:
    return f"{size[0]} × {size[1]}"


def budget_text(count: int) -> str:
    """Bytes as they are typed: never fewer, for what was named as enough must be enough."""
    if count < words.GIB:
        return str(count)
    short = words.size(count)
    exceeds = streamline.parse_bytes(short) - count
    return short if 0 <= exceeds < words.MIB else f"{-(-count // words.MIB)} MiB"
