"""The models the app offers, and their pipelines, loaded once and kept."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

import streamline
from streamline import Family, Field, Half, Model, Source

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
OWN = "own"
"""The name of the entry for a folder or a hub id that the user types in."""
OWN_MODEL = Model(
    OWN,
    "",
    "",
    "any model in diffusers' layout that is built like one of these",
    label="A folder or hub id of your own",
    sizes=((512, 512), (768, 512), (512, 768), (1024, 576)),
)


def entries() -> dict[str, Model]:
    """All models on offer by name, the bundled ones first, and the entry for others last."""
    return {model.name: model for model in (*streamline.MODELS, OWN_MODEL)}


def is_small(name: str) -> bool:
    """Whether a model comes with the package."""
    return name in entries() and entries()[name].is_small


def family_of(model: Model) -> Family | None:
    """The family of a model on offer; None for one of the user's own, which must be loaded to be known."""
    return next((family for family in streamline.FAMILIES if model in family.models), None)


def halves_of(model: Model) -> tuple[Half, ...]:
    """What of a model may be taken from elsewhere."""
    return family_of(model).halves if model.parts else ()


@dataclass(frozen=True)
class Profile:
    """What a model makes, and the job it is made for. fields: of its jobs, beside the common ones."""

    task: str
    job: streamline.Job
    fields: tuple[Field, ...] = ()

    @classmethod
    def of(cls, model: Model, pipe: DiffusionPipeline | None) -> Profile:
        """pipe: loaded from the model; None for one that is planned without its files."""
        family = family_of(model) or streamline.family_of(pipe)
        guidance = {"guidance_scale": family.guidance(pipe)}
        if pipe is None:
            return cls(model.task, streamline.job_for(model.name, guidance | dict(model.job)), family.fields)
        job = streamline.Job.from_dict(guidance | family.suited(pipe))
        return cls(family.task_of(pipe), job, family.fields)


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
        with self._small_lock if is_small(source.name) else self._lock:
            if source in self._small:
                return self._small[source]
            if self._last is not None and self._last[:2] == (source, dtype):
                return self._last[2]
            if not is_small(source.name):
                self._last = None  # its memory is needed for the next one
            pipe = streamline.load(source, device="cpu", dtype=dtype, offline=self._offline)
            pipe.set_progress_bar_config(disable=True)
            if is_small(source.name):
                self._small[source] = pipe
            else:
                self._last = (source, dtype, pipe)
            return pipe


def _refuse_folders(source: Source) -> None:
    """Raise ModelError for anything that could be a place on this machine."""
    offered = {model.name for model in streamline.MODELS}
    for name in (source.name, *dict(source.parts).values()):
        if name not in offered and (not HUB_ID.fullmatch(name) or os.path.lexists(name)):
            raise streamline.ModelError("Folders of this machine are not open here; name a hub id, organisation/name.")
