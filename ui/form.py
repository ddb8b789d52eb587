"""What stands in the fields of the page, and what it means: settings, or a sentence for each field that is wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

import streamline
from streamline import Model, Source

from .models import OWN, Profile, entries, halves_of
from .orders import QUALITIES, Settings

LONGEST_PROMPT = 2000  # characters; models read about the first 60 words
SMALLEST_PICTURE = 16  # pixels of a side
MOST_PIXELS = 64_000_000
EMULATED = ("4GiB", "6GiB", "8GiB", "12GiB", "16GiB", "24GiB")
NEEDED = ("width", "height", "frames", "steps", "seed")  # numbers; others are as they suit the model where left out
TEXTS = ("prompt", "negative_prompt")  # of models that start from text, which others do not read

# The fields as they were filled in, by name: a job's by their short names, those of all families among them, halves of
# models by theirs, and beside them model, own (a folder or hub id), image (the path of an uploaded file), quality, card
# and budget. Numbers may be missing or make no sense.
Form = Mapping[str, object]


@dataclass(frozen=True)
class Reading:
    """settings: None when a field that planning needs is wrong. notes: a sentence by field."""

    settings: Settings | None
    notes: Mapping[str, str] = field(default_factory=dict)
    image: Image.Image | None = None

    @property
    def is_complete(self) -> bool:
        return self.settings is not None and not self.notes


ProfileOf = Callable[[Source, Model], Profile]


def read(form: Form, profile_of: ProfileOf, for_run: bool = False) -> Reading:
    """What a form asks for. for_run: what it is made from matters too, and is read."""
    notes: dict[str, str] = {}
    model = entries().get(form["model"])
    if model is None:
        return Reading(None, {"model": "Choose a model."})
    source = source_of(form, model)
    if not source.name:
        return Reading(None, {"model": "Type a folder or a hub id, like organisation/name."})
    try:
        profile = profile_of(source, model)
    except streamline.StreamlineError as error:
        return Reading(None, {"model": str(error)})
    job = _job(form, profile, notes)
    budget = _budget(form, notes)
    if form["quality"] not in QUALITIES:
        notes["quality"] = f"The quality is one of {', '.join(QUALITIES)}."
    settings = None
    if not notes:
        settings = Settings(model.name, source, job, form["quality"], budget, form["card"])
    image = None
    if profile.task == "text-to-video":
        if len(form["prompt"]) > LONGEST_PROMPT:
            notes["prompt"] = (
                f"The prompt has {len(form['prompt']):,} characters; models read about the first 60 words. "
                f"Shorten it to {LONGEST_PROMPT:,} characters."
            )
        elif for_run and not form["prompt"].strip():
            notes["prompt"] = "Write what the video should show."
    elif form["image"] is not None or for_run:
        try:
            image = read_picture(form["image"])
        except streamline.InputError as error:
            notes["image"] = str(error)
    return Reading(settings, notes, image)


def read_picture(path: str | None) -> Image.Image:
    """An uploaded picture; raises InputError, one sentence, for what is none or cannot be used."""
    if path is None:
        raise streamline.InputError("Give a picture to start from: drop, paste or choose one.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        width, height = opened.size
        if min(width, height) < SMALLEST_PICTURE:
            raise streamline.InputError(
                f"This picture is {width} × {height} pixels; it must have at least {SMALLEST_PICTURE} on each side."
            )
        if width * height > MOST_PIXELS:
            raise streamline.InputError(
                f"This picture is {width:,} × {height:,} pixels, too large to open safely; scale it down first."
            )
        if getattr(opened, "n_frames", 1) > 1:
            raise streamline.InputError("This picture is animated; give a still one, or a single frame of it.")
        opened.load()
    except streamline.InputError:
        raise
    except Image.DecompressionBombError:
        raise streamline.InputError("This picture is too large to open safely; scale it down first.") from None
    except Exception as error:  # a decoder may raise anything on a damaged or foreign file
        raise streamline.InputError(
            f"{Path(path).name} cannot be read as a picture; PNG, JPEG and WebP work."
        ) from error
    return opened


def source_of(form: Form, model: Model) -> Source:
    """What is to be loaded."""
    halves = streamline.all_halves() if model.name == OWN else [half.name for half in halves_of(model)]
    name = form["own"].strip() if model.name == OWN else model.name
    return Source(name, {half: form.get(half, "").strip() for half in halves})


def _job(form: Form, profile: Profile, notes: dict[str, str]) -> streamline.Job:
    """The job, field by field, so that each mistake is told at its own field."""
    given: dict[str, object] = {}
    for one in (*streamline.COMMON_FIELDS, *profile.fields):
        value = form.get(one.short)
        if one.short in TEXTS and profile.task != "text-to-video":
            continue
        if value is None:
            if one.short in NEEDED:
                notes[one.short] = "Fill in a number."
            continue
        if one.kind is int and isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        try:
            one.check(value)
            given[one.name] = value
        except streamline.InputError as error:
            notes[one.short] = str(error)
    return replace(profile.job, **given)


def _budget(form: Form, notes: dict[str, str]) -> int | None:
    if form["card"]:
        try:
            streamline.emulate(form["card"])
        except streamline.StreamlineError as error:
            notes["budget"] = str(error)
    if not form["budget"].strip():
        return None
    try:
        return streamline.parse_bytes(form["budget"])
    except streamline.InputError as error:
        notes["budget"] = str(error)
        return None
