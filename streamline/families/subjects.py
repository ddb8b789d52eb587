"""Subjects of planning: of a pipeline that is loaded, or of a model that is described in full."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..program.casting import storage_of
from ..registry import family_of
from .building import NETWORKS, assemble, planned
from .naming import name_of, scheduler_key
from .subject import Subject


def subject_named(name: str, dtype: torch.dtype, storage: torch.dtype | None = None) -> Subject:
    """Return a published model, described in this package. Raises ModelError for unknown names."""
    family, model = planned(name)
    configs = {part: dict(config) for part, config in model.configs.items()}
    shape = family.published_tokens
    return Subject(name, family.name, family.pipelines[0].__name__, dtype, configs, shape, storage=storage)


def subject_of(pipe: DiffusionPipeline) -> Subject:
    """Return a pipeline that is loaded. Adapters loaded into it are not seen, and cost little.

    Raises UnsupportedError for a pipeline of no family.
    """
    family = family_of(pipe)
    denoiser = family.denoisers_of(pipe)[0]
    configs = {part: _described(network) for part, network in pipe.components.items() if isinstance(network, nn.Module)}
    return Subject(
        name=pipe.name_or_path or type(pipe).__name__,
        family=family.name,
        pipeline=type(pipe).__name__,
        dtype=denoiser.dtype,
        configs=configs,
        tokens=family.tokens(pipe),
        known_as=(name_of(pipe), scheduler_key(pipe.scheduler)),
        storage=storage_of(denoiser),
        settings=family.settings(pipe),
    )


def _described(network: nn.Module) -> dict[str, Any]:
    """Return a network's configuration, or those of the networks that it is made up of (MultiControlNetModel)."""
    config = getattr(network, "config", None)
    if config is None:
        fields = {NETWORKS: [_described(one) for one in network.nets]}
    else:
        fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {**fields, "_class_name": type(network).__name__}


def build_part(subject: Subject, part: str) -> nn.Module:
    """Return one network, untrained, where torch is set to build (a FakeTensorMode, or the meta device)."""
    return assemble(subject.configs[part])
