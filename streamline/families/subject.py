"""What is planned for: the configurations of a pipeline's networks, from which they are built without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Subject:
    """A pipeline as far as its cost goes.

    family: its name. pipeline: the name of the class that calls the networks.
    dtype: what they compute in, and of their weights.
    configs: of the networks by component, "_class_name" among them. tokens: that a prompt is padded to.
    known_as: the names of model and scheduler that a calibration goes by; None for models that are not loaded.
    storage: what most of the denoiser's weights are kept in, where that is not dtype (program/casting.py).
    settings: what is set on the pipeline, as its family names it.
    """

    name: str
    family: str
    pipeline: str
    dtype: torch.dtype
    configs: Mapping[str, dict[str, Any]] = field(hash=False)
    tokens: int = 1
    known_as: tuple[str, str] | None = None
    storage: torch.dtype | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def describe(self) -> str:
        """Return all that costs depend on, as text."""
        kept = [] if self.storage is None else [str(self.storage)]
        kept += [self.settings] if self.settings else []
        about = [self.family, self.pipeline, str(self.dtype), self.configs, self.tokens, *kept]
        return json.dumps(about, sort_keys=True, default=str)
