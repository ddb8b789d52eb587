"""GroupNorm over frames and pixels, taken apart: moments of the whole value first, then applied slice by slice.

Normalising each slice by its own moments would be cheaper and wrong: SVD's temporal resnets and AnimateDiff's
motion modules normalise over frames, height and width at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .axes import FRAMES
from .rows import Rows
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


def measure(norm: nn.GroupNorm, images: Tensor | Rows, batch: int, slices: int) -> AppliedNorm:
    """Take the moments of images (rows, channels, height, width) over each sample's frames and pixels.

    In float32 at least, some rows at a time: frames hold equally many values, so the mean of the frame means
    and the law of total variance combine them without loss or overflow.
    """

    def frame_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(rows.dtype, torch.float32)
        return torch.var_mean(rows.to(dtype).reshape(len(rows), norm.num_groups, -1), dim=2, correction=0)

    def rows(start: int, stop: int) -> Tensor:
        return images.read(FRAMES, start, stop) if isinstance(images, Rows) else images[start:stop]

    count = images.count if isinstance(images, Rows) else images.shape[0]
    parts = [frame_moments(rows(start, stop)) for start, stop in bounds(count, slices)]
    frame_var = torch.cat([var for var, _ in parts]).unflatten(0, (batch, -1))
    frame_mean = torch.cat([mean for _, mean in parts]).unflatten(0, (batch, -1))
    mean = frame_mean.mean(dim=1)
    var = frame_var.mean(dim=1) + frame_mean.var(dim=1, correction=0)
    return _applied(norm, mean, var)


@dataclass
class Moments:
    """Moments of a value that is seen slice of pixels by slice of pixels, and never as a whole."""

    norm: nn.GroupNorm
    batch: int

    def __post_init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._sizes: list[int] = []

    def add(self, pixels: Tensor) -> None:
        """A slice of images, (rows, channels, pixels, 1)."""
        dtype = torch.promote_types(pixels.dtype, torch.float32)
        values = pixels.unflatten(0, (self.batch, -1)).unflatten(2, (self.norm.num_groups, -1)).to(dtype)
        self._parts.append(torch.var_mean(values, dim=(1, 3, 4, 5), correction=0))
        self._sizes.append(pixels.shape[2])

    def applied(self) -> AppliedNorm:
        """By the law of total variance, slices counting by their pixels."""
        var, mean = (torch.stack(parts) for parts in zip(*self._parts, strict=True))
        sizes = torch.tensor(self._sizes, dtype=mean.dtype).to(mean.device, non_blocking=True)  # nobody waits for it
        fraction = sizes[:, None, None] / sum(self._sizes)
        total = (fraction * mean).sum(dim=0)
        return _applied(self.norm, total, (fraction * (var + (mean - total) ** 2)).sum(dim=0))


def _applied(norm: nn.GroupNorm, mean: Tensor, var: Tensor) -> AppliedNorm:
    """mean, var: (batch, groups)."""
    dtype = mean.dtype
    channels = norm.num_channels // norm.num_groups
    scale = torch.rsqrt(var + norm.eps).repeat_interleave(channels, dim=1)
    shift = -mean.repeat_interleave(channels, dim=1) * scale
    if norm.affine:
        scale = scale * norm.weight.to(dtype)
        shift = shift * norm.weight.to(dtype) + norm.bias.to(dtype)
    return AppliedNorm(scale[:, :, None, None, None], shift[:, :, None, None, None])
