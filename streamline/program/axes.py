"""The axes that stages are sliced over: for each, how its elements lie in a value.

All that is known of this stands here, so that another axis is one more object. Values have one of two layouts, rows
being batch x frames:

    images  (rows, channels, height, width)
    tokens  (rows, tokens, channels), where the tokens of a row may be its pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Shape = Sequence[int]


@dataclass(frozen=True)
class Axis:
    """An axis that is one dimension of a value.

    dim: that dimension. counted: the field of `plan.Slicing` that says into how many slices it is cut.
    spans: in which directions beside the axis a slice reaches all over a video, and so grows with it.
    """

    name: str
    dim: int
    counted: Literal["frames", "pixels"]
    spans: tuple[Literal["frames", "pixels", "width"], ...]

    @property
    def cuts_rows(self) -> bool:
        """Whether its elements are rows: slices of a value are pieces of memory, and conditions are cut with them."""
        return self.dim == 0

    def extent(self, shape: Shape) -> int:
        """Return how many elements the axis has in a value of this shape."""
        return shape[self.dim]

    def cut(self, value: Tensor, start: int, stop: int) -> Tensor:
        """Return a view of elements start to stop, as a stage takes it."""
        return value[(*[slice(None)] * self.dim, slice(start, stop))]

    def piece(self, shape: Shape, size: int) -> tuple[int, ...]:
        """Return the shape of a slice of so many elements of a value of this shape."""
        return (*shape[: self.dim], size, *shape[self.dim + 1 :])

    def room(self, piece: Shape, like: Shape) -> tuple[int, ...]:
        """Return the shape of a whole value, by that of a slice of it and that of another value as long."""
        return self.piece(piece, self.extent(like))

    def unslice(self, result: Tensor, like: Tensor) -> Tensor:
        """Return a whole value from what a stage made of the one slice that is all of `like`: see `whole`."""
        return result

    def whole(self, value: Tensor) -> Tensor:
        """Return the one slice that is the whole value, in the shape a stage expects."""
        return self.cut(value, 0, self.extent(value.shape))


class _Pixels(Axis):
    """Pixels of every row: height and width of images taken together, as (rows, channels, pixels, 1)."""

    def extent(self, shape: Shape) -> int:
        return math.prod(shape[2:]) if len(shape) == 4 else super().extent(shape)

    def cut(self, value: Tensor, start: int, stop: int) -> Tensor:
        if value.ndim != 4:
            return super().cut(value, start, stop)
        # view, not flatten: where a copy would be needed, what is written to the slice would be lost.
        return value.view(*value.shape[:2], -1)[:, :, start:stop].unsqueeze(3)

    def piece(self, shape: Shape, size: int) -> tuple[int, ...]:
        return (*shape[:2], size, 1) if len(shape) == 4 else super().piece(shape, size)

    def room(self, piece: Shape, like: Shape) -> tuple[int, ...]:
        return (*piece[:2], *like[2:]) if len(piece) == 4 else super().room(piece, like)

    def unslice(self, result: Tensor, like: Tensor) -> Tensor:
        return result.reshape(self.room(result.shape, like.shape)) if result.ndim == 4 else result


# The paper's spatial layers are cut over frames, its temporal layers over pixels. A transformer over one long sequence
# is cut over its tokens, of which a row has those of all frames. Convolutions over large images are cut over lines.
FRAMES = Axis("frames", 0, counted="frames", spans=("pixels",))
PIXELS = _Pixels("pixels", 1, counted="pixels", spans=("frames",))
TOKENS = Axis("tokens", 1, counted="pixels", spans=())
LINES = Axis("lines", 2, counted="pixels", spans=("frames", "width"))
