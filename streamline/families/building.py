"""Networks built from their configurations, without a download.

Traces and memory figures need a network's true shape but not its weights. Networks are built wherever the caller has
set torch to build them: `torch.device("meta")` or fake tensors make the largest of them in seconds without memory.

    with torch.device("meta"):
        network = build("svd", "unet")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers

from ..errors import ModelError
from ..job import Job
from ..registry import families
from .base import Family, Model

NETWORKS = "nets"  # in the configuration of a network that is made up of others, theirs


def planned(name: str) -> tuple[Family, Model]:
    """Return a model that can be planned without its files, and its family; raises ModelError for another name."""
    known = {model.name: (family, model) for family in families() for model in family.models if model.configs}
    if name not in known:
        raise ModelError(f"There is no published model {name!r}; known are {', '.join(known)}.")
    return known[name]


def planned_names() -> tuple[str, ...]:
    """Return the names of all models that can be planned without their files."""
    return tuple(model.name for family in families() for model in family.models if model.configs)


def config(model: str, part: str) -> dict[str, Any]:
    """Return the configuration of one part of a published model; raises ModelError for unknown names."""
    configs = planned(model)[1].configs
    if part not in configs:
        raise ModelError(f"{model} has no part {part!r}; it has {', '.join(configs)}.")
    return dict(configs[part])


def parts(model: str) -> tuple[str, ...]:
    """Return the parts of a published model; raises ModelError for unknown names."""
    return tuple(planned(model)[1].configs)


def job_for(name: str, given: Mapping[str, Any]) -> Job:
    """Return a job of the size and length a published model is made for, except for what is given."""
    family, model = planned(name)
    own = {field.name: field.default for field in family.fields}
    return Job.from_dict(own | dict(model.job) | dict(given))


def build(model: str, part: str) -> torch.nn.Module:
    """Return one part of a published model, untrained, in evaluation mode, on the device torch is set to build on.

    Raises ModelError for unknown names.
    """
    return assemble(config(model, part))


def assemble(configuration: Mapping[str, Any]) -> torch.nn.Module:
    """Return the network of a configuration, untrained, in evaluation mode, on the device torch is set to build on.

    configuration: as a family writes it down, or as a loaded network has it, "_class_name" included.
    """
    fields = dict(configuration)
    name = fields.pop("_class_name")
    if NETWORKS in fields:
        network = getattr(diffusers, name)([assemble(one) for one in fields[NETWORKS]])
    elif hasattr(diffusers, name):
        network = getattr(diffusers, name).from_config(fields)
    else:
        network = getattr(transformers, name)
        network = network(network.config_class(**fields))
    _gather(network, torch.get_default_device())
    return network.eval()


def _gather(network: torch.nn.Module, device: torch.device) -> None:
    """Move the stray parameters: SVD's blend factors are made in a way ignoring the device that is set."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.device.type != device.type:
                setattr(module, name, torch.nn.Parameter(parameter.detach().to(device)))
