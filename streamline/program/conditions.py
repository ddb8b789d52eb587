"""What every stage may look at beside the features: embeddings, text, residuals from a control network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .axes import Axis
from .slicing import widen


@dataclass(frozen=True)
class Conditions:
    """Values given to a whole run, looked up by name and cut to the current slice as they are.

    batch, frames: extent of the rows, rows = batch x frames, frames running fastest. Meant for pixel stages,
        which see all rows; a slice of the rows need not hold whole samples.
    rows: tensors, or tuples and lists of tensors, whose first dimension is the rows.
    shared: anything that is the same for every row.
    window: the rows in view, start and stop.
    span: the elements of the axis in view, start and stop; None where stages are given whole values.
    pixels: of the whole values of which a pixel stage is given slices; None where it is given all of them.
    """

    batch: int
    frames: int
    rows: Mapping[str, Any]
    shared: Mapping[str, Any]
    window: tuple[int, int] | None = None
    pixels: int | None = None
    span: tuple[int, int] | None = None

    def __getitem__(self, name: str) -> Any:
        if name in self.shared:
            return self.shared[name]
        return self.in_view(self.rows[name])

    def in_view(self, value: Any) -> Any:
        """Of something given for every row of the whole run, what belongs to the rows in view."""
        return value if self.window is None else _cut(value, *self.window)

    def slice_rows(self, start: int, stop: int) -> Conditions:
        """The conditions of rows start to stop, counted from the rows in view."""
        first = self.window[0] if self.window else 0
        return replace(self, window=(first + start, first + stop))

    def of_slice(self, axis: Axis, start: int, stop: int, extent: int) -> Conditions:
        """The conditions of one slice of values that have so many elements along an axis."""
        seen = replace(self, span=(start, stop))
        return seen.slice_rows(start, stop) if axis.cuts_rows else replace(seen, pixels=extent)

    def without_halo(self, axis: Axis, value: Tensor, halo: int) -> Tensor:
        """Return the slice itself of what was made of a slice with its halo (`Stage.halo`), element by element."""
        if self.span is None:
            return value
        start, stop = self.span
        before = start - widen(start, stop, halo, stop)[0]
        return axis.cut(value, before, before + stop - start)

    def sample(self, index: int) -> Conditions:
        """The conditions of one sample of the batch with all its frames."""
        return replace(self.slice_rows(index * self.frames, (index + 1) * self.frames), batch=1)


def _cut(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:stop]
    if isinstance(value, (tuple, list)):
        return type(value)(_cut(item, start, stop) for item in value)
    return value
