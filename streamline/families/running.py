"""One call of a network by a plan, in the place of its own forward; and what would keep that from being exact."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Protocol

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..plan import BlockSlicing
from ..program.casting import is_cast
from ..program.conditions import Conditions
from ..program.executor import Call, StepMemory, nothing
from ..program.parts import parts_of
from ..program.stages import Program
from .networks import network_of

# Attributes that make a module worth a closer look; most have none of them.
SUSPECT = frozenset({"_diffusers_hook", "_hf_hook", "forward", "_chunk_dim"})


class Weights(Protocol):
    """What brings the weights of a program's stages to the device, group by group (weights/offloading.py)."""

    def serves(self, args: tuple, kwargs: dict) -> bool:
        """Whether a call is made on the device."""

    def around(self, network: nn.Module, program: Program) -> contextlib.AbstractContextManager[Program]:
        """One call of a network; gives the program that brings its weights as it runs."""


def run_network(
    network: nn.Module,
    slicing: BlockSlicing,
    sequential: bool,
    *args: object,
    memory: StepMemory | None = None,
    before_slice: Callable[[], object] = nothing,
    weights: Weights | None = None,
    **kwargs: object,
) -> object:
    """What the network's own forward does, by a plan. Lowered at every call, so it follows every change made since.

    memory: of the steps before, for a plan with a rehash. before_slice: as for `apply`. weights: brings those of the
        network, which are in host memory.
    Raises UnsupportedError, naming the obstacle, if the network cannot be run as a program as it stands.
    """
    family = network_of(network)
    check_parts(network)

    program = family.lower(network)

    def execute(program: Program, values: dict[str, Tensor], conditions: Conditions) -> Tensor:
        call = Call(program, slicing, values, conditions, sequential, before_slice)
        if memory is None:
            return call.run()
        return memory.execute(call, kwargs["timestep"] if "timestep" in kwargs else args[1])

    is_offloaded = weights is not None and weights.serves(args, kwargs)
    with weights.around(network, program) if is_offloaded else contextlib.nullcontext(program) as program:
        return family.forward(network, functools.partial(execute, program), *args, **kwargs)


def check_parts(network: nn.Module) -> None:
    """Refuse what reaches into a network and would be passed over, or would look across slices."""
    kind = type(network).__name__
    for module in parts_of(network):
        attributes = vars(module)
        is_usual = attributes.keys().isdisjoint(SUSPECT) and not isinstance(module, Attention)
        if is_usual or is_cast(module):
            continue
        if hooks := diffusers_hooks(module):
            raise UnsupportedError(
                f"The diffusers hook {hooks[0]!r} on {kind} is not supported; remove it, or use "
                "enable_model_cpu_offload to save memory."
            )
        if "_hf_hook" in attributes and module is not network:
            raise UnsupportedError(
                f"Weights that come and go inside {kind} (sequential CPU offload, a device map over its parts) "
                "are not supported; enable_model_cpu_offload is."
            )
        if "forward" in attributes and module is not network:
            raise UnsupportedError(
                f"The forward of a {type(module).__name__} in this {kind} was replaced by another, which may look "
                "across frames or pixels; take that off first."
            )
        if isinstance(module, Attention) and not _keeps_rows_apart(processor := type(module.processor)):
            raise UnsupportedError(
                f"The attention processor {processor.__name__} is not known to treat frames and pixels apart, so "
                "it is not supported; those of diffusers.models.attention_processor are."
            )
        if attributes.get("_chunk_dim") == 0 and (module._chunk_size or 1) > 1:
            raise UnsupportedError(
                f"Feed-forward chunks of {module._chunk_size} along dimension 0 do not divide every slice; use "
                "chunks of 1, or dim=1."
            )


def diffusers_hooks(module: nn.Module) -> list[str]:
    registry = vars(module).get("_diffusers_hook")
    return list(registry.hooks) if registry is not None else []


def _keeps_rows_apart(processor: type) -> bool:
    """Perturbed attention guidance (PAG) takes the batch apart by position, which slices do not keep."""
    return processor.__module__ == Attention.__module__ and "PAG" not in processor.__name__
