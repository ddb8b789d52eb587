"""Which weights a program's stages use."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .stages import Program, Stage


def weights_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Parameters and buffers of modules, each once."""
    return list(dict.fromkeys(tensor for module in modules for tensor in (*module.parameters(), *module.buffers())))


def stage_weights(stages: Iterable[Stage]) -> list[Tensor]:
    """What stages use, norms included."""
    return weights_of(module for stage in stages for module in (stage.norm, *stage.of) if module is not None)


def other_weights(network: nn.Module, program: Program) -> list[Tensor]:
    """What no stage uses: a network's forward does before its stages run (embeddings of time and position)."""
    used = set(stage_weights(program.stages))
    return [tensor for tensor in weights_of([network]) if tensor not in used]
