"""A network as data: a flat list of stages, each of which may be run on any slice of one axis.

Every stage writes one value, named after the stage, and reads values by name, so that groups, lifetimes and
dead code follow from the names alone. How values are laid out, and how an axis lies in them, is in axes.py.

A frame stage works on each row by itself and sees a slice of the rows. A pixel stage works on each pixel by
itself and sees a slice of the pixels with every frame: images come as (rows, channels, pixels, 1), tokens as
(rows, pixels, channels).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn

from ..errors import PlanError, UnsupportedError
from .axes import FRAMES, PIXELS, Axis

CALL = "call"
PREDICTION = "prediction"  # the cache point that every program has: its output


@dataclass(frozen=True)
class Stage:
    """One step of a program.

    name: of the stage and of the value it writes, unique in its program.
    block: the part of the network it belongs to ("down.0"), by which a plan says how finely to cut.
    run: run(conditions, *slices) -> slice. The slices it is given are views, not to be written to. A stage with
        a norm gets one more argument first: run(norm, conditions, *slices), where norm maps (batch, channels,
        frames, pixels, 1) to the same.
    reads: names of the values it needs, in the order `run` takes them.
    norm: a GroupNorm over frames and pixels of the first value read. Its moments span what the stage is
        sliced over, so they are taken from the whole value before the first slice is run.
    of: the modules it calls, beside the norm; their weights have to be on the device while it runs.
    kind: what it does with them. Stages of one kind whose modules are alike cost the same on like values, so that only
        one of them is measured (cost/table.py); by default it is the name, so that a stage is like no other.
    whole: those values read that every slice is given all of, as an attention is its keys and values.
    halo: for some values read, how many elements more than the slice it is given on each side, fewer at the ends, as a
        convolution over lines is. `Conditions.without_halo` takes off again what it made of them.

    Raises ValueError for a stage that reads no value in slices, or that normalises one it reads otherwise.
    """

    name: str
    block: str
    axis: Axis
    run: Callable[..., Tensor]
    reads: tuple[str, ...]
    norm: nn.GroupNorm | None = None
    of: tuple[nn.Module, ...] = ()
    kind: str = ""
    whole: tuple[str, ...] = ()
    halo: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind or self.name)
        if not set(self.reads) - set(self.whole) or not self.beyond <= set(self.reads):
            raise ValueError(
                f"Stage {self.name!r} must read a value in slices, and everything that it asks more of than a slice."
            )
        if self.norm is not None and self.reads[0] in self.beyond:
            raise ValueError(f"Stage {self.name!r} must read what it normalises in slices.")

    @cached_property
    def beyond(self) -> frozenset[str]:
        """Return the values of which it is given more than the slice: whole, or with a halo."""
        return frozenset((*self.whole, *self.halo))

    @cached_property
    def along(self) -> str:
        """Return the first value that it does not read whole: the axis has as many elements as in this one."""
        return next(name for name in self.reads if name not in self.whole)


@dataclass(frozen=True)
class Program:
    """Stages in the order they run, and the names of what goes in and what comes out.

    kept: a value that is needed after the run, beside the output.
    hold: called before a group of stages runs, with its stages and with those of the group that follows, so that the
        weights of both can be brought to the device.
    cache_points: values that a step may take over from the step before (Step Rehash, paper section 3.4), by the names
        that the family gives them, from the one that leaves the most to compute to the one that leaves the least.
    """

    inputs: tuple[str, ...]
    stages: tuple[Stage, ...]
    output: str
    kept: str | None = None
    hold: Callable[[tuple[Stage, ...], tuple[Stage, ...]], object] | None = None
    cache_points: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        known = set(self.inputs)
        for stage in self.stages:
            missing = [name for name in stage.reads if name not in known]
            if missing:
                raise ValueError(f"Stage {stage.name!r} reads {missing[0]!r} before it is written.")
            if stage.name in known:
                raise ValueError(f"Value {stage.name!r} is written twice.")
            known.add(stage.name)
        if self.output not in known:
            raise ValueError(f"No stage writes the output {self.output!r}.")
        if self.kept is not None and self.kept not in known:
            raise ValueError(f"No stage writes {self.kept!r}, which is to be kept.")

    def last_reads(self) -> dict[str, int]:
        """For every value that is read, the index of the last stage that reads it; what comes out is read last."""
        last = {name: index for index, stage in enumerate(self.stages) for name in stage.reads}
        last[self.output] = len(self.stages)
        if self.kept is not None:
            last[self.kept] = len(self.stages)
        return last

    @cached_property
    def block_kinds(self) -> dict[str, str]:
        """Return the words that its blocks' names start with, and how such names are written: {"down": "down.N"}."""
        names = dict.fromkeys(stage.block for stage in self.stages)
        return {name.split(".")[0]: re.sub(r"\d+", "N", name) for name in names}

    @property
    def cache_point_names(self) -> tuple[str, ...]:
        """Return the names of its cache points, the output last."""
        return (*self.cache_points, PREDICTION)

    def cache_point(self, name: str) -> str:
        """Return the value that a cache point keeps: a named one, or any value of the program by its own name.

        Raises PlanError for a value that is not there, UnsupportedError for a network without cache points.
        """
        if name == PREDICTION:
            return self.output
        if name in self.cache_points:
            return self.cache_points[name]
        if any(stage.name == name for stage in self.stages):
            return name
        if not self.cache_points:
            raise UnsupportedError(
                "This network has no point at which a step could reuse what the step before computed."
            )
        raise PlanError(f"The plan's rehash cuts at {name!r}, which this network does not have.")

    def bind(self, names: Iterable[str]) -> Program:
        """This program with some values given from outside, and every stage dropped that nobody needs then.

        Dead-code elimination: what Step Rehash (paper section 3.4) skips on a step that reuses a feature.
        """
        bound = set(names)
        needed = {self.output}
        kept = []
        for stage in reversed(self.stages):
            if stage.name in needed and stage.name not in bound:
                kept.append(stage)
                needed.update(stage.reads)
        inputs = tuple(name for name in (*self.inputs, *sorted(bound)) if name in needed)
        return replace(self, inputs=inputs, stages=tuple(reversed(kept)))


@dataclass
class Builder:
    """Collects stages while a network is lowered; every method returns the name of the value written.

    Of a stage that others are like, `kind` says in a few words what it does with the modules in `of`, and every choice
    its code was made by ("resnet, open"); whatever it calls has to be in `of` or `norm` then. CALL is one module called
    on what is read, and nothing else.
    """

    inputs: tuple[str, ...]
    block: str = ""
    stages: list[Stage] = field(default_factory=list)

    def add(
        self,
        name: str,
        axis: Axis,
        run: Callable[..., Tensor],
        *reads: str,
        whole: Iterable[str] = (),
        halo: Mapping[str, int] | None = None,
        of: Iterable[nn.Module | None] = (),
        kind: str = "",
    ) -> str:
        """Add a stage over any axis. whole, halo: as for `Stage`. of: the modules it calls, or None."""
        stage = Stage(name, self.block, axis, run, reads, None, _present(of), kind, tuple(whole), halo or {})
        return self._add(stage)

    def frames(
        self,
        name: str,
        run: Callable[..., Tensor],
        *reads: str,
        of: Iterable[nn.Module | None] = (),
        kind: str = "",
    ) -> str:
        """Add a stage that treats every (batch, frame) row by itself. of: the modules it calls, or None."""
        return self._add(Stage(name, self.block, FRAMES, run, reads, None, _present(of), kind))

    def pixels(
        self,
        name: str,
        run: Callable[..., Tensor],
        *reads: str,
        norm: nn.GroupNorm | None = None,
        of: Iterable[nn.Module | None] = (),
        kind: str = "",
    ) -> str:
        """Add a stage that treats every pixel by itself, but for the moments of `norm`. of: as for `frames`."""
        return self._add(Stage(name, self.block, PIXELS, run, reads, norm, _present(of), kind))

    def build(self, output: str, cache_points: Mapping[str, str] | None = None) -> Program:
        """Return the program of all stages added. cache_points: as for `Program`.

        Raises ValueError for a value that is read, given out or named a cache point and that no stage writes.
        """
        program = Program(self.inputs, tuple(self.stages), output, cache_points=cache_points or {})
        for name, value in program.cache_points.items():
            if all(stage.name != value for stage in self.stages):
                raise ValueError(f"No stage writes {value!r}, the cache point {name!r}.")
        return program

    def _add(self, stage: Stage) -> str:
        self.stages.append(stage)
        return stage.name


def _present(modules: Iterable[nn.Module | None]) -> tuple[nn.Module, ...]:
    return tuple(module for module in modules if module is not None)
