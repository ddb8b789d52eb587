"""A value kept in pieces of its rows: each piece can be freed as soon as it is consumed, and kept in host memory.

One tensor for all rows can only be freed as a whole, so that a network's last upsampler holds its input and its
output, twice the size and four times, at once. Pieces shrink the one while the other grows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .slicing import cut
from .stages import Axis


class Rows:
    """Pieces of a value by rows, in order; what was freed cannot be read again.

    They belong to the executor alone. on_host: they are kept in host memory, pinned where a GPU has to reach it, and
    what is read is copied to the device.
    """

    def __init__(self, device: torch.device, *, on_host: bool) -> None:
        self.device, self.on_host = device, on_host
        self._is_coming = False  # copies to host memory were launched that may not have arrived yet
        self._pieces: list[Tensor | None] = []
        self._starts = [0]

    @classmethod
    def empty(cls, piece: Tensor, rows: int, size: torch.Size, *, on_host: bool) -> Rows:
        """Room for a value, a piece for each row, given a slice of its pixels and its height and width or pixels."""
        made = cls(piece.device, on_host=on_host)
        shape = (1, size[0], piece.shape[2]) if piece.ndim == 3 else (1, piece.shape[1], *size)
        for _ in range(rows):
            made._append(made._room(shape, piece.dtype))
        return made

    @property
    def size(self) -> torch.Size:
        """Height and width of images, pixels of tokens."""
        first = self._first()
        return first.shape[1:2] if first.ndim == 3 else first.shape[2:]

    @property
    def count(self) -> int:
        """Rows that were added so far."""
        return self._starts[-1]

    def fits(self, piece: Tensor) -> bool:
        """Whether a slice of pixels can be written into it."""
        first = self._first()
        channels = first.shape[2] if first.ndim == 3 else first.shape[1]
        same = piece.ndim == first.ndim and piece.dtype == first.dtype and piece.shape[0] == self.count
        return same and channels == (piece.shape[2] if piece.ndim == 3 else piece.shape[1])

    def outline(self) -> Tensor:
        """A tensor of its shape without memory, for what only looks at shapes."""
        first = self._first()
        return torch.empty((self.count, *first.shape[1:]), dtype=first.dtype, device="meta")

    def extent(self, axis: Axis) -> int:
        return self.count if axis is Axis.FRAMES else self.size.numel()

    def add(self, rows: Tensor) -> None:
        """Keep a copy, for somebody else may hold what a stage returned."""
        self._append(self._room(rows.shape, rows.dtype).copy_(rows, non_blocking=True))
        self._is_coming = True

    def read(self, axis: Axis, start: int, stop: int) -> Tensor:
        """A slice on the device: a copy, but for rows that lie in one piece there."""
        if axis is Axis.PIXELS:
            parts = [self._on_device(cut(axis, piece, start, stop)) for piece in self._pieces]
        else:
            parts = [
                self._on_device(piece[max(start - first, 0) : stop - first])
                for piece, first, last in self._placed()
                if first < stop and last > start
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def write(self, start: int, stop: int, pixels: Tensor) -> None:
        """Put a slice of pixels in its place."""
        for piece, first, last in self._placed():
            part = cut(Axis.PIXELS, piece, start, stop)
            part.copy_(pixels[first:last], non_blocking=part.is_contiguous())
        self._is_coming = True

    def free(self, stop: int) -> None:
        """Let go of the pieces that end at or before a row."""
        for index, last in enumerate(self._starts[1:]):
            if last <= stop:
                self._pieces[index] = None

    def gather(self) -> Tensor:
        """All of it as one tensor on the device."""
        return self.read(Axis.FRAMES, 0, self.count)

    def _append(self, piece: Tensor) -> None:
        self._pieces.append(piece)
        self._starts.append(self.count + piece.shape[0])

    def _room(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.on_host and self.device.type == "cuda":
            try:
                return torch.empty(shape, dtype=dtype, pin_memory=True)
            except RuntimeError:  # there is little of it; other host memory is only slower
                return torch.empty(shape, dtype=dtype)
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _on_device(self, part: Tensor) -> Tensor:
        """A copy there. What is not contiguous the CPU gathers first, at once, so it must have arrived by then."""
        if self._is_coming and self.on_host and self.device.type == "cuda" and not part.is_contiguous():
            torch.cuda.current_stream(self.device).synchronize()
            self._is_coming = False
        return part.to(self.device, non_blocking=True)

    def _placed(self) -> Iterator[tuple[Tensor, int, int]]:
        return zip(self._pieces, self._starts, self._starts[1:], strict=False)

    def _first(self) -> Tensor:
        return next(piece for piece in self._pieces if piece is not None)
