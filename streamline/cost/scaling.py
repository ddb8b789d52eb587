"""What a job of another size takes, in proportion to one that is known, without anything being measured.

Stages treat the elements of their axis alike, so that what they take follows the number of frames and pixels; only
the work of attention falls faster, which makes the time of a smaller job a little high. Slices are counted anew, for
a slice of one frame does not shrink when there are fewer of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from ..families.base import Called, Phase
from ..job import Job
from ..program.stages import Stage
from .measuring import Sample, Value, Work
from .pipeline_cost import PipelineCost
from .table import Table


class ScaledTable:
    """A network at another size, to be composed like a Table (table.py)."""

    def __init__(self, table: Table, frames: int, height: float, width: float) -> None:
        """frames: of one call. height, width: as shares of what they are in the table."""
        self.program, self.batch, self.frames = table.program, table.batch, frames
        self.other_weights_bytes = table.other_weights_bytes
        self.cast_bytes = table.cast_bytes
        self.outcomes: dict[tuple, tuple] = {}
        self._table, self._height, self._width = table, height, width
        self._frames, self._pixels = frames / table.frames, height * width
        self.head = _times(table.head, self._frames * self._pixels)
        # Embeddings are held beside the stages, and do not depend on pixels.
        self.held_bytes = table.held_bytes * self._frames

    @cached_property
    def values(self) -> dict[str, Value]:
        return {name: self._scaled(value) for name, value in self._table.values.items()}

    @property
    def output_bytes(self) -> int:
        return self.values[self.program.output].nbytes

    def whole(self, stage: Stage, packed: tuple[bool, ...]) -> Sample:
        return _times(self._table.whole(stage, packed), self._frames * self._pixels)

    def slice(self, stage: Stage, tags: str, size: int, around: tuple[int, int] = (0, 0)) -> Sample:
        """Scale a slice: one of so many frames has fewer pixels, and one of so many pixels has fewer frames."""
        fractions = {"frames": self._frames, "pixels": self._pixels, "width": self._width}
        fraction = math.prod(fractions[direction] for direction in stage.axis.spans)
        return _times(self._table.slice(stage, tags, size, around), fraction)

    def weights_of(self, stages: Sequence[Stage]) -> dict[int, int]:
        return self._table.weights_of(stages)

    def recast_bytes(self, stages: Sequence[Stage]) -> int:
        return self._table.recast_bytes(stages)

    def casting(self, stages: Sequence[Stage]) -> Work:
        return self._table.casting(stages)

    def norm(self, stage: Stage, packed: bool, slices: int) -> Sample:
        """Memory follows the rows taken at a time, so the known norm is asked for as many."""
        rows, known_rows = (table.values[stage.reads[0]].shape[0] for table in (self, self._table))
        chunk = -(-rows // min(slices, rows))
        sample = self._table.norm(stage, packed, -(-known_rows // chunk))
        return replace(_times(sample, self._frames * self._pixels), peak_bytes=sample.peak_bytes * self._pixels)

    def moments(self, stage: Stage, size: int) -> Sample:
        return _times(self._table.moments(stage, size), self._frames)

    def _scaled(self, value: Value) -> Value:
        rows = round(value.shape[0] * self._frames)
        if len(value.shape) == 3:
            return replace(value, shape=(rows, max(1, round(value.shape[1] * self._pixels)), value.shape[2]))
        height, width = (
            max(1, round(side * fraction))
            for side, fraction in zip(value.shape[2:], (self._height, self._width), strict=True)
        )
        return replace(value, shape=(rows, value.shape[1], height, width))


class ScaledCost(PipelineCost):
    """The costs of another job on a pipeline, from those of one that is known. Not to be saved."""

    def __init__(self, known: PipelineCost, job: Job) -> None:
        """job: with guidance, or without it, as the known one."""
        super().__init__(known.subject, job, known.folder)
        self._known = known
        self.weights = known.weights

    def sample(self, called: Called, *, opened: bool = True) -> Sample:
        """Return one call of a network; what is made of pixels follows their number."""
        all_known = [one for phase in self._known.phases for one in (phase.called, phase.beside) if one is not None]
        known = next(one for one in all_known if (one.part, one.inner) == (called.part, called.inner))
        sample = self._known.sample(known, opened=opened)
        return _times(sample, called.pixels / known.pixels) if called.pixels else sample

    def untouched(self, phase: Phase) -> Sample:
        known = self._known.denoising if phase.work == "denoise" else self._known.decoding
        return _times(self._known.untouched(known), self._pixels * phase.frames / known.frames)

    def called_weights(self, called: Called) -> int:
        return self._known.called_weights(called)

    @property
    def _pixels(self) -> float:
        return self.height * self.width / (self._known.height * self._known.width)

    def _table(self, work: str, batch: int) -> ScaledTable:
        known, phase = self._known, self.decoding if work == "decode" else self.denoising
        table = known.decoder if work == "decode" else known.denoiser if batch == known.batch else known.half
        return ScaledTable(table, phase.frames, self.height / known.height, self.width / known.width)


def _times(sample: Sample, fraction: float) -> Sample:
    """Less of everything but operator calls."""
    work = sample.work
    return Sample(
        sample.peak_bytes * fraction,
        sample.kept_bytes * fraction,
        sample.largest_convolution_bytes * fraction,
        Work(work.flops * fraction, work.product_bytes * fraction, work.moved_bytes * fraction, work.calls),
    )
