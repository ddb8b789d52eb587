"""What a job is asked for: each field once, for the command line, the form, the API, receipts and sentences alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .errors import InputError, quoted

LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Field:
    """One thing that a job says.

    name: of the job's attribute, its key in JSON, and the argument of the pipeline's call.
    kind: int, float or str. default: where nobody gives it. is_optional: None leaves it to the pipeline.
    least, most: bounds of a number. multiple: of what a whole number has to be one.
    label, info: on forms, and what stands beside it. help: a clause for the command line. option: there, like "--seed".
    words: in sentences, "The frame rate must be ..."; by default the name. short: on forms and in the API.
    """

    name: str
    kind: type
    default: Any = None
    least: float = 0
    most: float = math.inf
    multiple: int = 1
    is_optional: bool = False
    label: str = ""
    info: str = ""
    help: str = ""
    option: str = ""
    words: str = ""
    short: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", self.words or self.name.replace("_", " "))
        object.__setattr__(self, "short", self.short or self.name)
        object.__setattr__(self, "label", self.label or self.words.capitalize())

    def check(self, value: object) -> None:
        """Raise InputError, one sentence, for a value that cannot be used."""
        if value is None and self.is_optional:
            return
        if self.kind is str:
            if not isinstance(value, str):
                raise InputError(f"The {self.words} must be text.")
        elif self.kind is int:
            if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
                raise InputError(
                    f"The {self.words} must be a whole number from {self.least} to {self.most}, not {quoted(value)}."
                )
            if value % self.multiple:
                raise InputError(f"The {self.words} must be a multiple of {self.multiple}, not {value}.")
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not self.least <= value <= self.most or value == math.inf:
                bounds = f"at least {self.least:g}" if self.most == math.inf else f"{self.least:g} to {self.most:g}"
                raise InputError(f"The {self.words} must be a number of {bounds}, not {quoted(value)}.")


# What every family's jobs have. Those without a default have to be given.
COMMON = (
    Field("height", int, least=8, most=8192, multiple=8, label="Height in pixels"),
    Field("width", int, least=8, most=8192, multiple=8, label="Width in pixels"),
    Field(
        "num_frames", int, least=1, most=1024, label="Frames", words="number of frames", short="frames",
        option="--frames", help="how many (as the model is made for)",
    ),
    Field(
        "prompt", str, "", label="What should it show?", option="--prompt",
        help="what to show, for text-to-video models",
    ),
    Field(
        "negative_prompt", str, "", label="What should it not show?", option="--negative-prompt",
        help="what not to show",
    ),
    Field(
        "num_inference_steps", int, 25, least=1, most=1000, label="Steps", info="more: finer, slower",
        words="number of steps", short="steps", option="--steps", help="denoising steps (25)",
    ),
    Field(
        "guidance_scale", float, is_optional=True, label="Guidance", info="how closely to follow", short="guidance",
        option="--guidance-scale", help="how closely to follow prompt or image",
    ),
    Field(
        "seed", int, 0, most=LARGEST_SEED, label="Seed", info="the same seed makes the same video", option="--seed",
        help="same seed, same video (0)",
    ),
    Field(
        "fps", int, 7, least=1, most=120, label="Frames a second", words="frame rate", option="--fps",
        help="frames per second",
    ),
)  # fmt: skip
