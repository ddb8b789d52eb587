"""GroupNorm over frames and pixels, taken apart: moments of the whole value first, then applied slice by slice.

Normalising each slice by its own moments would be cheaper and wrong: SVD's temporal resnets and AnimateDiff's
motion modules normalise over frames, height and width at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .slicing import bounds


@dataclass(frozen=True)
class AppliedNorm:
    """A GroupNorm whose moments are known: x -> x * scale + shift, on any slice of frames and pixels.

    scale, shift: float32 or wider, (batch, channels, 1, 1, 1).
    """

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, channels, frames, pixels, 1) -> the same shape and type."""
        return torch.addcmul(self.shift, x, self.scale).to(x.dtype)


def measure(norm: nn.GroupNorm, images: Tensor, batch: int, slices: int) -> AppliedNorm:
    """Take the moments of images (rows, channels, height, width) over each sample's frames and pixels.

    In float32 at least, some rows at a time: frames hold equally many values, so the mean of the frame means
    and the law of total variance combine them without loss or overflow.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)

    def frame_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.var_mean(rows.to(dtype).reshape(len(rows), norm.num_groups, -1), dim=2, correction=0)

    parts = [frame_moments(images[start:stop]) for start, stop in bounds(images.shape[0], slices)]
    frame_var = torch.cat([var for var, _ in parts]).unflatten(0, (batch, -1))
    frame_mean = torch.cat([mean for _, mean in parts]).unflatten(0, (batch, -1))
    mean = frame_mean.mean(dim=1)
    var = frame_var.mean(dim=1) + frame_mean.var(dim=1, correction=0)

    channels = norm.num_channels // norm.num_groups
    scale = torch.rsqrt(var + norm.eps).repeat_interleave(channels, dim=1)
    shift = -mean.repeat_interleave(channels, dim=1) * scale
    if norm.affine:
        scale = scale * norm.weight.to(dtype)
        shift = shift * norm.weight.to(dtype) + norm.bias.to(dtype)
    return AppliedNorm(scale[:, :, None, None, None], shift[:, :, None, None, None])
