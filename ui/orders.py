"""What is asked for: plain data, which goes to a worker and comes back from a file as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from PIL import Image

import streamline
from streamline import Source

Kind = Literal["generate", "compare", "sweep"]
QUALITIES = ("exact", "balanced", "fast")


@dataclass(frozen=True)
class Settings:
    """Everything a visitor chooses, the picture apart.

    model: the name of an entry. source: what is loaded for it. budget_bytes: what the run may hold on the device.
    card: an emulated one, like "8GiB", or "" for what is here.
    """

    model: str
    source: Source
    job: streamline.Job
    quality: str = "exact"
    budget_bytes: int | None = None
    card: str = ""

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        return vars(self) | {"source": self.source.to_dict(), "job": self.job.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping) -> Settings:
        """The inverse of `to_dict`; raises InputError for anything else."""
        try:
            fields = dict(data) | {
                "source": Source.from_dict(data["source"]),
                "job": streamline.Job.from_dict(data["job"]),
            }
            return cls(**fields)
        except (TypeError, KeyError, ValueError) as error:
            raise streamline.InputError(f"These settings are not understood: {error}.") from error


@dataclass(frozen=True)
class Part:
    """One run of an order. plan: None for the untouched pipeline. is_skipped: it needs more than there is."""

    label: str
    plan: streamline.Plan | None
    prediction: streamline.Prediction | None = None
    is_skipped: bool = False


@dataclass(frozen=True)
class Order:
    """Runs of one job on one model, made one after the other.

    check: of the original, where it is made too, after a single run, to measure how close that came to it.
    """

    kind: Kind
    settings: Settings
    parts: tuple[Part, ...]
    image: Image.Image | None = None
    check: streamline.Prediction | None = None
