"""Model offload: weights are on the GPU only for their stage of the pipeline (enable_model_cpu_offload)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..errors import is_out_of_memory


def is_hooked(pipe: DiffusionPipeline) -> bool:
    """Return whether hooks of accelerate move the weights of some network."""
    return any("_hf_hook" in vars(part) for part in pipe.components.values() if isinstance(part, nn.Module))


def can_move_weights(pipe: DiffusionPipeline) -> bool:
    """Return whether all networks stay on a device that has a memory of its own,
    so that they could leave it for a while."""
    return pipe._execution_device.type != "cpu" and not is_hooked(pipe)


@contextmanager
def model_offload(pipe: DiffusionPipeline) -> Iterator[None]:
    """Bring each network to the pipeline's GPU when it is called and back after it; all are there again at the end.

    Does nothing on a CPU, which has no second memory, and where networks are offloaded already.
    """
    if not can_move_weights(pipe):
        yield
        return
    device = pipe._execution_device
    pipe.enable_model_cpu_offload(device=device)
    try:
        yield
    finally:
        pipe.remove_all_hooks()
        bring(pipe, device)


def bring(pipe: DiffusionPipeline, device: torch.device) -> None:
    """Put all networks on a device; where others have taken the room, each comes when it is called from now on."""
    try:
        pipe.to(device)
    except (RuntimeError, MemoryError) as error:
        if device.type != "cuda" or not is_out_of_memory(error):
            raise
        pipe.enable_model_cpu_offload(device=device)
