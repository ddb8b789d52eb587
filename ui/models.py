"""The models the app offers, and their pipelines, loaded once and kept."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

import streamline

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
OWN = "own"
"""The name of the entry for a folder or a hub id that the user types in."""


@dataclass(frozen=True)
class Entry:
    """A model on offer.

    source: what `streamline.load` is asked for. planned_as: the published model whose shape it has, None where it
    must be loaded to be planned. defaults: of the job, where its files need not be asked. sizes: (width, height).
    """

    name: str
    label: str
    task: str
    about: str
    source: str
    planned_as: str | None
    defaults: tuple[tuple[str, float], ...]
    sizes: tuple[tuple[int, int], ...]
    is_here: bool


TINY_SIZES = ((64, 64), (96, 64), (64, 96), (128, 128))
IMAGE_SIZES = ((512, 512), (768, 512), (512, 768), (1024, 576))
SVD_SIZES = ((1024, 576), (768, 448), (512, 512), (576, 1024))
SVD = {"height": 576, "width": 1024, "fps": 7, "guidance_scale": 3.0}
LARGE = {
    "animatediff": ("AnimateDiff", {"height": 512, "width": 512, "num_frames": 16, "fps": 8, "guidance_scale": 7.5}),
    "svd": ("Stable Video Diffusion", SVD | {"num_frames": 14}),
    "svd-xt": ("Stable Video Diffusion XT", SVD | {"num_frames": 25}),
}
XT_1_1 = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"


def entries() -> dict[str, Entry]:
    """All models on offer by name, the bundled ones first; which are here is looked up anew."""
    found = [_entry(model) for model in streamline.MODELS]
    here = Path(XT_1_1).is_dir()
    found.append(
        Entry(
            "svd-xt-1.1",
            "Stable Video Diffusion XT 1.1",
            "image-to-video",
            "Smoother motion than XT; its licence must be accepted on the hub first",
            XT_1_1,
            "svd-xt",
            tuple((SVD | {"num_frames": 25}).items()),
            SVD_SIZES,
            here,
        )
    )
    found.append(
        Entry(
            OWN,
            "A folder or hub id of your own",
            "",
            "Any model in diffusers' layout that is built like one of these",
            "",
            None,
            (),
            IMAGE_SIZES,
            True,
        )
    )
    return {entry.name: entry for entry in found}


def _entry(model: streamline.Model) -> Entry:
    if model.name in LARGE:
        label, defaults = LARGE[model.name]
        sizes = SVD_SIZES if model.task == "image-to-video" else IMAGE_SIZES
        planned_as = model.name
    else:
        kind = "from a sentence" if model.task == "text-to-video" else "from a picture"
        label, defaults, sizes, planned_as = f"Tiny, {kind}", {}, TINY_SIZES, None
    about = model.about[0].upper() + model.about[1:]
    return Entry(
        model.name, label, model.task, about, model.name, planned_as, tuple(defaults.items()), sizes, model.is_here
    )


@dataclass(frozen=True)
class Source:
    """What to load. base, motion_adapter: for AnimateDiff, other halves than its own; "" for its own."""

    name: str
    base: str = ""
    motion_adapter: str = ""


@dataclass(frozen=True)
class Profile:
    """What a model makes, and the job it is made for."""

    task: str
    job: streamline.Job


class Pipelines:
    """Loaded pipelines: the small ones that come with the package all, of the others the last one.

    They are loaded into main memory, where planning needs no more than their configuration, and moved to the device
    to be run.
    """

    def __init__(self, offline: bool = False, is_public: bool = False) -> None:
        """is_public: strangers may ask, so that what they name must be a model on offer or a hub id."""
        self._offline = offline
        self._is_public = is_public
        self._lock = threading.Lock()
        self._small_lock = threading.Lock()  # of its own, so that a download keeps nobody from the bundled models
        self._small: dict[Source, DiffusionPipeline] = {}
        self._last: tuple[Source, torch.dtype, DiffusionPipeline] | None = None

    def get(self, source: Source, dtype: torch.dtype) -> DiffusionPipeline:
        """The pipeline, loaded if need be; raises ModelError when it cannot be had."""
        if self._is_public:
            _refuse_folders(source)
        is_small = source.name.startswith("tiny-")
        with self._small_lock if is_small else self._lock:
            if source in self._small:
                return self._small[source]
            if self._last is not None and self._last[:2] == (source, dtype):
                return self._last[2]
            if not is_small:
                self._last = None  # its memory is needed for the next one
            pipe = streamline.load(
                source.name,
                device="cpu",
                dtype=dtype,
                base=source.base or None,
                motion_adapter=source.motion_adapter or None,
                offline=self._offline,
            )
            pipe.set_progress_bar_config(disable=True)
            if is_small:
                self._small[source] = pipe
            else:
                self._last = (source, dtype, pipe)
            return pipe


def _refuse_folders(source: Source) -> None:
    """Raise ModelError for anything that could be a place on this machine."""
    offered = {model.name for model in streamline.MODELS}
    for name in filter(None, (source.name, source.base, source.motion_adapter)):
        if name not in offered and (not HUB_ID.fullmatch(name) or os.path.lexists(name)):
            raise streamline.ModelError("Folders of this machine are not open here; name a hub id, organisation/name.")
