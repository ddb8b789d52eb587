"""The fields that say what to make: their layout, how they follow the model, and how they are filled in again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

import streamline
from streamline import Model

from . import words
from .form import EMULATED, Form
from .models import OWN, Profile, entries, family_of, halves_of
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
GROUPS = {"width": "shape", "height": "shape", "frames": "shape", "steps": "shape", "quality": "budget"}
ALONE = ("model", "prompt", "image", "seed", "budget")
COMMON = {field.short: field for field in streamline.COMMON_FIELDS}


@dataclass(frozen=True)
class Fields:
    """All fields by their names in a `Form`, and what belongs to them.

    own_fields: of jobs of some families only. halves: what of some models may be taken from elsewhere. Both by name.
    notes: below each group of fields. slider: of the budget; the text beside it is the field itself.
    """

    by_name: dict[str, gr.components.Component]
    own_fields: dict[str, gr.components.Component]
    own_row: gr.Row
    halves: dict[str, gr.Textbox]
    halves_box: gr.Column
    halves_title: gr.Accordion
    notes: dict[str, gr.HTML]
    slider: gr.HTML
    budget_hint: gr.HTML
    size: gr.Dropdown
    text_input: gr.Column
    image_input: gr.Column
    folder: gr.Column
    free_size: gr.Row
    keep_seed: gr.Checkbox

    @property
    def inputs(self) -> list[gr.components.Component]:
        return [*self.by_name.values()]

    def form(self, values: Sequence) -> Form:
        """The form whose `inputs` have some values."""
        return dict(zip(self.by_name, values, strict=True))

    @property
    def shape(self) -> list:
        """What `follow_model` sets."""
        names = ("width", "height", "frames", "steps", "guidance", "fps", "budget", "model")
        inside = [*self.own_fields.values(), self.own_row, *self.halves.values(), self.halves_box, self.halves_title]
        outside = [self.size, self.text_input, self.image_input, self.folder]
        return [*(self.by_name[name] for name in names), *inside, *outside]

    def follow_model(self, model: Model, profile: Profile) -> dict:
        """What a model is made for, by component."""
        job = profile.job
        presets = sizes_of(model)
        label = size_label((job.width, job.height))
        if label not in presets:
            presets = [label, *presets]
        numbers = {name: getattr(job, COMMON[name].name) for name in ("width", "height", "frames", "steps", "fps")}
        shown = {
            self.by_name["guidance"]: job.guidance_scale,
            self.by_name["budget"]: "",
            self.size: gr.update(choices=presets, value=label),
            **{self.by_name[name]: number for name, number in numbers.items()},
        }
        own = {self.own_fields[field.short]: gr.update(visible=True, value=getattr(job, field.name))
               for field in profile.fields if field.short in self.own_fields}  # fmt: skip
        return shown | self._follow(model, profile.task, profile.fields) | own

    def follow_unknown(self, model: Model) -> dict:
        """What can be said of a model that cannot be had, by component."""
        family = family_of(model)
        return self._follow(model, model.task or "text-to-video", () if family is None else family.fields)

    def _follow(self, model: Model, task: str, own: Sequence[streamline.Field]) -> dict:
        is_text, names, halves = task == "text-to-video", [field.short for field in own], halves_of(model)
        shown = {
            self.text_input: is_text,
            self.image_input: not is_text,
            self.folder: model.name == OWN,
            self.own_row: bool(names),
            self.halves_box: bool(halves),
            **{field: name in names for name, field in self.own_fields.items()},
            **{field: name in [half.name for half in halves] for name, field in self.halves.items()},
        }
        return {component: gr.update(visible=is_shown) for component, is_shown in shown.items()} | {
            self.by_name["model"]: gr.update(info=about(model)),
            self.halves_title: gr.update(label=f"Other halves for {model.label}"),
        }


def build(card: str = "") -> Fields:
    """Lay the fields out, in whatever column this is called. card: emulated from the beginning."""
    offers = entries()
    first = next(iter(offers.values()))
    suited = {"num_frames": 8, "guidance_scale": None, "fps": 8} | dict(first.job)  # its files are not opened for this
    notes: dict[str, gr.HTML] = {}

    def note(name: str) -> None:
        notes[name] = html("", elem_classes="note", elem_id=f"note-{name}")

    def field(name: str, value: object, **options: object) -> gr.components.Component:
        return component(COMMON[name], value, **options)

    with gr.Group():
        model = gr.Dropdown(
            [(label_of(model), name) for name, model in offers.items()],
            value=first.name,
            label="Model",
            info=about(first),
            elem_id="model",
        )
    note("model")
    with gr.Column(visible=False) as folder:
        own = gr.Textbox("", label="Folder or hub id", placeholder="/models/my-video-model, or organisation/name")
    with gr.Column(visible=False) as halves_box, gr.Accordion("Other halves", open=False) as halves_title:
        halves = {
            name: gr.Textbox("", label=half.label, placeholder=half.placeholder)
            for name, half in streamline.all_halves().items()
        }
    is_text = first.task == "text-to-video"
    with gr.Column(visible=is_text) as text_input:
        prompt = field("prompt", PROMPTS[0], lines=2, max_lines=5, elem_id="prompt")
        note("prompt")
        gr.Examples([[text] for text in PROMPTS], prompt, label="Try one of these")
    with gr.Column(visible=not is_text) as image_input:
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
            frames = field("frames", suited["num_frames"], min_width=90, elem_id="frames")
            steps = field("steps", COMMON["steps"].default, min_width=90, elem_id="steps")
        with gr.Row(visible=False) as free_size:
            width = field("width", first.sizes[0][0], min_width=120, elem_id="width")
            height = field("height", first.sizes[0][1], min_width=120, elem_id="height")
    note("shape")
    with gr.Row(elem_classes="seedrow", equal_height=True):
        seed = field("seed", 2, min_width=130, scale=3, elem_id="seed")
        keep_seed = gr.Checkbox(True, label="Keep it", min_width=90, scale=1, elem_id="keep-seed")
        dice = gr.Button("Roll dice", min_width=90, scale=1, elem_id="dice")
    note("seed")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        negative_prompt = field("negative_prompt", "")
        with gr.Row():
            guidance = field("guidance", suited["guidance_scale"], min_width=110)
            fps = field("fps", suited["fps"], min_width=110)
        with gr.Row(visible=False) as own_row:
            own_fields = {
                one.short: component(one, one.default, min_width=110) for one in streamline.own_fields().values()
            }
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
        "model": model, "own": own, "prompt": prompt, "negative_prompt": negative_prompt, "image": image,
        "width": width, "height": height, "frames": frames, "steps": steps, "guidance": guidance, "fps": fps,
        "seed": seed, "quality": quality, "card": card_field, "budget": budget,
    }  # fmt: skip
    fields = Fields(by_name | own_fields | halves, own_fields, own_row, halves, halves_box, halves_title, notes, slider,
                    budget_hint, size, text_input, image_input, folder, free_size, keep_seed)  # fmt: skip
    dice.click(lambda: random.randrange(2**32), None, seed, api_visibility="private", show_progress="hidden")
    return fields


def component(field: streamline.Field, value: object, **options: object) -> gr.components.Component:
    """A field of a job as it stands on the page."""
    kind = gr.Textbox if field.kind is str else gr.Number
    return kind(value, label=field.label, info=field.info or None, **options)


def follow_size(label: str) -> tuple:
    """A preset sets both sides; another size shows them."""
    if label == FREE_SIZE:
        return gr.skip(), gr.skip(), gr.update(visible=True)
    width, height = map(int, label.split(" × "))
    return width, height, gr.update(visible=False)


def fill(settings: Settings, model: Model, profile: Profile, image: str | None) -> dict[str, object]:
    """Values by field that make the fields say these settings."""
    job, source = settings.job, settings.source
    values = {field.short: getattr(job, field.name) for field in (*streamline.COMMON_FIELDS, *profile.fields)}
    values |= {half: source.part(half) or "" for half in streamline.all_halves()}
    values |= {
        "model": gr.update(value=settings.model, info=about(model)),
        "own": source.name if settings.model == OWN else "",
        "quality": settings.quality,
        "card": settings.card,
        "budget": str(settings.budget_bytes or ""),
    }
    if profile.task != "text-to-video":
        del values["prompt"]
        values |= {} if image is None else {"image": image}
    return values


def notes_by_group(notes: Mapping[str, str]) -> dict[str, str]:
    """For every group of fields the first sentence about one of them."""
    found: dict[str, str] = {}
    for name, sentence in notes.items():
        group = name if name in ALONE else GROUPS.get(name, "more")
        found.setdefault(group, sentence)
    return found


def label_of(model: Model) -> str:
    return model.label if model.name == OWN or model.is_here else f"{model.label} (to be downloaded)"


def about(model: Model) -> str:
    """What stands below the list of models."""
    return model.about[:1].upper() + model.about[1:]


def sizes_of(model: Model) -> list[str]:
    return [*map(size_label, model.sizes), FREE_SIZE]


def size_label(size: Sequence[int]) -> str:
    return f"{size[0]} × {size[1]}"


def budget_text(count: int) -> str:
    """Bytes as they are typed: never fewer, for what was named as enough must be enough."""
    if count < words.GIB:
        return str(count)
    short = words.size(count)
    exceeds = streamline.parse_bytes(short) - count
    return short if 0 <= exceeds < words.MIB else f"{-(-count // words.MIB)} MiB"
