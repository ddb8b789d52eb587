"""A value kept in pieces of its rows: each piece can be freed as soon as it is consumed, and kept in host memory.

One tensor for all rows can only be freed as a whole, so that a network's last upsampler holds its input and its
output, twice the size and four times, at once. Pieces shrink the one while the other grows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .axes import FRAMES, Axis, Shape


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
    def empty(cls, shape: Shape, like: Tensor, *, on_host: bool) -> Rows:
        """Room for a value of this shape, a piece for each row, on the device and of the type of another."""
        made = cls(like.device, on_host=on_host)
        for _ in range(shape[0]):
            made._append(made._room((1, *shape[1:]), like.dtype))
        return made

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value, as far as it was added."""
        return (self.count, *self._first().shape[1:])

    @property
    def count(self) -> int:
        """Rows that were added so far."""
        return self._starts[-1]

    def fits(self, axis: Axis, piece: Tensor) -> bool:
        """Whether a slice of an axis that is not the rows can be written into it."""
        first = self._first()
        is_alike = piece.ndim == first.ndim and piece.dtype == first.dtype
        return is_alike and axis.room(piece.shape, self.shape) == self.shape

    def add(self, rows: Tensor) -> None:
        """Keep a copy, for somebody else may hold what a stage returned."""
        self._append(self._room(rows.shape, rows.dtype).copy_(rows, non_blocking=True))
        self._is_coming = True

    def read(self, axis: Axis, start: int, stop: int) -> Tensor:
        """A slice on the device: a copy, but for rows that lie in one piece there."""
        if not axis.cuts_rows:
            parts = [self._on_device(axis.cut(piece, start, stop)) for piece in self._pieces]
        else:
            parts = [
                self._on_device(piece[max(start - first, 0) : stop - first])
                for piece, first, last in self._placed()
                if first < stop and last > start
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def write(self, axis: Axis, start: int, stop: int, result: Tensor) -> None:
        """Put a slice of an axis that is not the rows in its place."""
        for piece, first, last in self._placed():
            part = axis.cut(piece, start, stop)
            part.copy_(result[first:last], non_blocking=part.is_contiguous())
        self._is_coming = True

    def free(self, stop: int) -> None:
        """Let go of the pieces that end at or before a row."""
        for index, last in enumerate(self._starts[1:]):
            if last <= stop:
                self._pieces[index] = None

    def gather(self) -> Tensor:
        """All of it as one tensor on the device."""
        return self.read(FRAMES, 0, self.count)

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
