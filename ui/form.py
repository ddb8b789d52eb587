"""What stands in the fields of the page, and what it means: settings, or a sentence for each field that is wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from PIL import Image

import streamline

from .models import OWN, Entry, Profile, Source, entries
from .orders import QUALITIES, Settings

LONGEST_PROMPT = 2000  # characters; models read about the first 60 words
SMALLEST_PICTURE = 16  # pixels of a side
MOST_PIXELS = 64_000_000
EMULATED = ("4GiB", "6GiB", "8GiB", "12GiB", "16GiB", "24GiB")
WHOLE = ("width", "height", "frames", "steps", "seed", "motion", "fps")
NAMES = {
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "motion": "motion_bucket_id",
    "noise": "noise_aug_strength",
}


@dataclass(frozen=True)
class Form:
    """The fields as they were filled in; numbers may be missing or make no sense. image: path of an uploaded file."""

    model: str
    own: str
    base: str
    motion_adapter: str
    prompt: str
    negative_prompt: str
    image: str | None
    width: float | None
    height: float | None
    frames: float | None
    steps: float | None
    guidance: float | None
    motion: float | None
    fps: float | None
    noise: float | None
    seed: float | None
    quality: str
    card: str
    budget: str


FIELDS = tuple(one.name for one in fields(Form))


@dataclass(frozen=True)
class Reading:
    """settings: None when a field that planning needs is wrong. notes: a sentence by field."""

    settings: Settings | None
    notes: Mapping[str, str] = field(default_factory=dict)
    image: Image.Image | None = None

    @property
    def is_complete(self) -> bool:
        return self.settings is not None and not self.notes


ProfileOf = Callable[[Source, Entry], Profile]


def read(form: Form, profile_of: ProfileOf, for_run: bool = False) -> Reading:
    """What a form asks for. for_run: what it is made from matters too, and is read."""
    notes: dict[str, str] = {}
    entry = entries().get(form.model)
    if entry is None:
        return Reading(None, {"model": "Choose a model."})
    source = source_of(form, entry)
    if not source.name:
        return Reading(None, {"model": "Type a folder or a hub id, like organisation/name."})
    try:
        profile = profile_of(source, entry)
    except streamline.StreamlineError as error:
        return Reading(None, {"model": str(error)})
    task = profile.task
    job = _job(form, profile.job, task, notes)
    if form.quality not in QUALITIES:
        notes["quality"] = f"The quality is one of {', '.join(QUALITIES)}."
    budget = _budget(form, notes)
    settings = None
    if not notes:
        settings = Settings(form.model, source, job, form.quality, budget, form.card)
    image = None
    if task == "text-to-video":
        if len(form.prompt) > LONGEST_PROMPT:
            notes["prompt"] = (
                f"The prompt has {len(form.prompt):,} characters; models read about the first 60 words. "
                f"Shorten it to {LONGEST_PROMPT:,} characters."
            )
        elif for_run and not form.prompt.strip():
            notes["prompt"] = "Write what the video should show."
    elif form.image is not None or for_run:
        try:
            image = read_picture(form.image)
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


def source_of(form: Form, entry: Entry) -> Source:
    """What is to be loaded."""
    if entry.name == OWN:
        return Source(form.own.strip(), form.base.strip(), form.motion_adapter.strip())
    if entry.name == "animatediff":
        return Source(entry.source, form.base.strip(), form.motion_adapter.strip())
    return Source(entry.source)


def _job(form: Form, base: streamline.Job, task: str, notes: dict[str, str]) -> streamline.Job:
    """The job, field by field, so that each mistake is told at its own field."""
    given: dict[str, object] = {}
    skipped = {"motion", "noise"} if task == "text-to-video" else set()
    for name in ("width", "height", "frames", "steps", "guidance", "motion", "fps", "noise", "seed"):
        value = getattr(form, name)
        if name in skipped or (value is None and name in ("guidance", "motion", "noise", "fps")):
            continue
        if value is None:
            notes[name] = "Fill in a number."
            continue
        if name in WHOLE and isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        given[NAMES.get(name, name)] = value
        try:
            replace(base, **{NAMES.get(name, name): value})
        except streamline.InputError as error:
            notes[name] = str(error)
            del given[NAMES.get(name, name)]
    texts = {}
    if task == "text-to-video":
        texts = {"prompt": form.prompt, "negative_prompt": form.negative_prompt}
    return replace(base, **given, **texts)


def _budget(form: Form, notes: dict[str, str]) -> int | None:
    if form.card:
        try:
            streamline.emulate(form.card)
        except streamline.StreamlineError as error:
            notes["budget"] = str(error)
    if not form.budget.strip():
        return None
    try:
        return streamline.parse_bytes(form.budget)
    except streamline.InputError as error:
        notes["budget"] = str(error)
        return None
