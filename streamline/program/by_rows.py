"""A group run at the floor of memory: its values are kept row by row, and freed as they are consumed.

A second norm in a group of pixels looks at what the stages before it make of every pixel. That is computed twice, once
for the moments and once to go on with, and never kept: SVD's temporal resnets hold one whole value and not two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from .conditions import Conditions
from .groups import Group
from .moments import AppliedNorm, Moments, measure
from .rows import Rows
from .slicing import bounds, cut, empty_for, extent
from .stages import Axis

Kept = dict[str, Tensor | Rows]


def run_by_rows(
    group: Group,
    values: Kept,
    conditions: Conditions,
    before_slice: Callable[[], object],
    final: set[str | None],
) -> None:
    """Carry one slice after the other through the group's stages.

    final: values that are given out, each as one tensor.
    """
    axis, like = group.axis, values[group.reads[0]]
    size = like.extent(axis) if isinstance(like, Rows) else extent(axis, like)
    pieces = bounds(size, group.slices)
    conditions = conditions.of_pixels(size) if axis is Axis.PIXELS else conditions
    norms = _norms(group, values, conditions, pieces, before_slice)
    outputs: Kept = {}
    for start, stop in pieces:
        before_slice()
        seen = conditions.slice_rows(start, stop) if axis is Axis.FRAMES else conditions
        local = {name: _read(axis, values[name], start, stop) for name in group.reads}
        run_stages(group, local, seen, norms)
        if axis is Axis.FRAMES:
            for name in group.dead:
                if isinstance(values[name], Rows):
                    values[name].free(stop)
        for name in group.writes:
            result = local.pop(name)
            if name not in outputs:
                outputs[name] = _room(group, name, result, like, values, outputs, final)
            output = outputs[name]
            if isinstance(output, Tensor):
                cut(axis, output, start, stop).copy_(result)
            elif axis is Axis.FRAMES:
                output.add(result)
            else:
                output.write(start, stop, result)
            del result
    for name in group.dead:
        del values[name]
    values.update(outputs)


def run_stages(
    group: Group,
    local: dict[str, Tensor],
    conditions: Conditions,
    norms: Mapping[str, AppliedNorm],
    stop: int | None = None,
) -> None:
    """One slice through the stages of a group, or those before `stop`. norms: of stages, by name."""
    last = {name: index for index, stage in enumerate(group.stages) for name in stage.reads}
    for index, stage in enumerate(group.stages[:stop]):
        norm = (norms[stage.name],) if stage.norm is not None else ()
        local[stage.name] = stage.run(*norm, conditions, *(local[name] for name in stage.reads))
        for name in stage.reads:
            if last[name] == index and name not in group.writes:
                local.pop(name, None)


def gather(group: Group, values: Kept) -> None:
    """What a group reads as single tensors, for one that keeps its values whole."""
    for name in group.reads:
        if isinstance(values[name], Rows):
            values[name] = values[name].gather()


def _norms(
    group: Group,
    values: Kept,
    conditions: Conditions,
    pieces: list[tuple[int, int]],
    before_slice: Callable[[], object],
) -> dict[str, AppliedNorm]:
    first = group.stages[0]
    norms = {}
    if first.norm is not None:
        norms[first.name] = measure(first.norm, values[first.reads[0]], conditions.batch, len(pieces))
    if group.again is None:
        return norms
    second = group.stages[group.again]
    needed = {name for stage in group.stages[: group.again] for name in stage.reads}
    moments = Moments(second.norm, conditions.batch)
    for start, stop in pieces:
        before_slice()
        local = {name: _read(group.axis, values[name], start, stop) for name in group.reads if name in needed}
        run_stages(group, local, conditions, norms, group.again)
        moments.add(local[second.reads[0]])
        local.clear()  # before the next slice is read
    return norms | {second.name: moments.applied()}


def _read(axis: Axis, value: Tensor | Rows, start: int, stop: int) -> Tensor:
    return value.read(axis, start, stop) if isinstance(value, Rows) else cut(axis, value, start, stop)


def _room(
    group: Group,
    name: str,
    result: Tensor,
    like: Tensor | Rows,
    values: Kept,
    outputs: Kept,
    final: set[str | None],
) -> Tensor | Rows:
    """Where an output goes: pixels over a dead input that is kept by rows, else new memory."""
    if name in final:
        return empty_for(group.axis, result, like if isinstance(like, Tensor) else like.outline())
    on_host = group.keep == "host"
    if group.axis is Axis.FRAMES:
        return Rows(result.device, on_host=on_host)
    for other in group.reads:
        value = values[other]
        is_free = other in group.dead and all(value is not used for used in outputs.values())
        if is_free and isinstance(value, Rows) and value.fits(result):
            return value
    rows = like.count if isinstance(like, Rows) else like.shape[0]
    size = like.size if isinstance(like, Rows) else like.shape[1:2] if like.ndim == 3 else like.shape[2:]
    return Rows.empty(result, rows, size, on_host=on_host)
