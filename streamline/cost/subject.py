"""What is planned for: the configurations of a pipeline's networks, from which they are built without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import AnimateDiffPipeline, DiffusionPipeline, StableVideoDiffusionPipeline
from torch import nn

from ..errors import UnsupportedError
from ..families import published
from ..families.animatediff.unet import CLIP_TOKENS
from ..models.naming import name_of, scheduler_key
from ..program.casting import storage_of

Kind = Literal["svd", "animatediff"]


@dataclass(frozen=True)
class Subject:
    """A pipeline as far as its cost goes.

    kind: which pipeline calls the networks. dtype: what they compute in, and of their weights.
    storage: what most of the UNet's weights are kept in, where that is not dtype (program/casting.py).
    configs: of the networks by part, as in `published`. tokens: that a prompt is padded to.
    known_as: the names of model and scheduler that a calibration goes by; None for models that are not loaded.
    """

    name: str
    kind: Kind
    dtype: torch.dtype
    configs: Mapping[str, dict[str, Any]] = field(hash=False)
    tokens: int = 1
    known_as: tuple[str, str] | None = None
    storage: torch.dtype | None = None

    @classmethod
    def published(cls, name: str, dtype: torch.dtype, storage: torch.dtype | None = None) -> Subject:
        """A published model, described in this package. Raises ModelError for unknown names."""
        configs = {part: published.config(name, part) for part in published.parts(name)}
        kind = "svd" if "image_encoder" in configs else "animatediff"
        return cls(name, kind, dtype, configs, CLIP_TOKENS if kind == "animatediff" else 1, storage=storage)

    @classmethod
    def of(cls, pipe: DiffusionPipeline) -> Subject:
        """A pipeline that is loaded. Adapters loaded into it are not seen, and cost little.

        Raises UnsupportedError for pipelines whose cost is not modelled: those with further networks.
        """
        kinds: dict[type, Kind] = {StableVideoDiffusionPipeline: "svd", AnimateDiffPipeline: "animatediff"}
        kind = kinds.get(type(pipe))
        if kind is None:
            known = " and ".join(one.__name__ for one in kinds)
            raise UnsupportedError(
                f"The cost of {type(pipe).__name__} is not known beforehand; {known} can be planned."
            )
        configs = {}
        for part, network in pipe.components.items():
            if not isinstance(network, nn.Module):
                continue
            fields = network.config.to_dict() if part.endswith("encoder") else dict(network.config)
            configs[part] = {**fields, "_class_name": type(network).__name__}
        tokens = pipe.tokenizer.model_max_length if kind == "animatediff" else 1
        known_as = (name_of(pipe), scheduler_key(pipe.scheduler))
        name, storage = pipe.name_or_path or type(pipe).__name__, storage_of(pipe.unet)
        return cls(name, kind, pipe.unet.dtype, configs, tokens, known_as, storage)

    def build(self, part: str) -> nn.Module:
        """One network, untrained, where torch is set to build (a FakeTensorMode, or the meta device)."""
        return published.assemble(self.configs[part])

    def describe(self) -> str:
        """All that costs depend on, as text."""
        kept = [] if self.storage is None else [str(self.storage)]
        return json.dumps([self.kind, str(self.dtype), self.configs, self.tokens, *kept], sort_keys=True, default=str)

    @property
    def scale(self) -> int:
        """Pixels that one latent pixel stands for, in each direction."""
        return 2 ** (len(self.configs["vae"]["block_out_channels"]) - 1)

    @property
    def upcasts(self) -> bool:
        """Whether the image is encoded in float32 by a half-precision autoencoder, as SVD does."""
        is_half = self.dtype == torch.float16
        return self.kind == "svd" and is_half and self.configs["vae"].get("force_upcast", True)
