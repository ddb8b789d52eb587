"""A job says what video to make, in full; a plan says how. Both are plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError, quoted
from .fields import COMMON
from .registry import family_of, own_fields


@dataclass(frozen=True, init=False)
class Job:
    """One video: equal jobs on the same model give equal videos.

    prompt, negative_prompt: for models that start from text.
    height, width: in pixels, multiples of 8.
    guidance_scale: how closely to follow the prompt or image; None leaves it to the pipeline.
    fps: frames per second of the video; some models are told too.
    options: what only some families' jobs have and is not as its family has it by default, as (name, value) pairs by
        name. They are given to Job by name, and read as attributes, as those above are.

    Raises InputError, one sentence, when a value cannot be used.
    """

    height: int
    width: int
    num_frames: int
    prompt: str = ""
    negative_prompt: str = ""
    num_inference_steps: int = 25
    guidance_scale: float | None = None
    seed: int = 0
    fps: int = 7
    options: tuple[tuple[str, Any], ...] = ()

    def __init__(self, height: int, width: int, num_frames: int, *values: Any, **given: Any) -> None:
        names = [field.name for field in COMMON]
        in_order = dict(zip(names, (height, width, num_frames, *values), strict=False))
        if len(values) > len(names) - 3 or set(in_order) & set(given):
            raise TypeError("A job is given each of its common fields once, and all others by name.")
        given |= in_order
        options = dict(given.pop("options", ()))
        for field in COMMON:
            value = given.pop(field.name, field.default)
            field.check(value)
            object.__setattr__(self, field.name, value)
        options |= given
        known = own_fields()
        for name, value in options.items():
            if name not in known:
                raise InputError(f"A job has no field {quoted(name)}.")
            known[name].check(value)
        unlike_default = {name: value for name, value in options.items() if value != known[name].default}
        object.__setattr__(self, "options", tuple(sorted(unlike_default.items())))

    def __getattr__(self, name: str) -> Any:
        """Return an option, or its default where it is not given."""
        options = dict(vars(self).get("options", ()))
        if name in options:
            return options[name]
        if name.startswith("_") or name not in own_fields():
            raise AttributeError(f"A job has no field {name!r}.")
        return own_fields()[name].default

    @classmethod
    def for_model(cls, pipe: object, **given: Any) -> Job:
        """Return a job of the size, length and guidance that a pipeline's model is made for, but for what is given."""
        return cls.from_dict(family_of(pipe).suited(pipe) | given)

    @property
    def is_guided(self) -> bool:
        """Whether the denoiser is given two samples, one of them without the prompt or the image."""
        return self.guidance_scale is None or self.guidance_scale > 1

    def to_dict(self) -> dict:
        """Return plain data, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in COMMON} | dict(self.options)

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping) -> Job:
        """Return the job that `to_dict` made data of; raises InputError for anything else."""
        if not isinstance(data, Mapping):
            raise InputError("A job must be a JSON object.")
        known = {field.name for field in COMMON} | set(own_fields())
        if unknown := sorted(set(data) - known, key=str):
            raise InputError(f"A job has no field {quoted(unknown[0])}.")
        for field in COMMON:
            if field.default is None and not field.is_optional and field.name not in data:
                raise InputError(f"A job needs the {field.words}.")
        return cls(**data)

    @classmethod
    def from_json(cls, text: str) -> Job:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"The job is not valid JSON: {error}.") from error
        return cls.from_dict(data)
