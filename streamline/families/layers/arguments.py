"""What both UNets work out from the arguments of a call."""

from __future__ import annotations

import torch
from torch import Tensor


def as_timesteps(timestep: Tensor | float | int, batch: int, device: torch.device) -> Tensor:
    """One timestep for each sample of the batch, on the device, (batch,)."""
    if not torch.is_tensor(timestep):
        dtype = torch.float64 if isinstance(timestep, float) else torch.int64
        if device.type == "mps":
            dtype = torch.float32 if isinstance(timestep, float) else torch.int32
        timestep = torch.tensor(timestep, dtype=dtype, device=device)
    return timestep.to(device).reshape(-1).expand(batch)


def needs_resize(sample: Tensor, upsamplers: int) -> bool:
    """Whether height or width does not halve evenly all the way down, so that going up needs explicit sizes."""
    return any(size % 2**upsamplers != 0 for size in sample.shape[-2:])
