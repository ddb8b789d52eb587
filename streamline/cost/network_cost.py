"""The memory and work of a network under any slicing, composed from what its stages take.

This follows the executor (program/executor.py) name by name: what lives at the same time adds up, the peak of a program
is the highest of its groups, its work is the sum over them. Nothing is run, so a plan is judged in milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..plan import BlockSlicing
from ..program.groups import Group, group_stages
from ..program.slicing import bounds
from ..program.stages import Axis
from .measuring import INSIDE, NATURAL, PACKED, Sample, Value, Work
from .rows_cost import State, run_by_rows
from .table import Table


@dataclass(frozen=True)
class GroupCost:
    """One group of stages.

    peak_bytes: the most that is alive while it runs. largest_convolution_bytes: as in Sample.
    weights_bytes: of streamed weights that are on the device meanwhile. coming_bytes: the part of them that is sent
    while it runs, for the group that follows.
    """

    group: Group
    peak_bytes: float
    largest_convolution_bytes: float
    work: Work
    weights_bytes: int = 0
    coming_bytes: int = 0

    def total_bytes(self, share: float) -> float:
        """With streamed weights, and with workspace as in `NetworkCost.worst`."""
        return self.peak_bytes + self.weights_bytes + share * self.largest_convolution_bytes


@dataclass(frozen=True)
class NetworkCost:
    """One call of a network under one slicing. Bytes are of activations, without weights and arguments.

    held_bytes: what is alive around every group, to be added to its peak. head_bytes: the peak before the first.
    head_weights_bytes: of streamed weights that are there before the first group. first_bytes: of those that it needs.
    passes: how often the groups run, each time from the first one on.
    """

    held_bytes: float
    head_bytes: float
    work: Work
    groups: tuple[GroupCost, ...]
    head_weights_bytes: int = 0
    first_bytes: int = 0
    passes: int = 1

    @property
    def peak_bytes(self) -> int:
        """Of activations, and of weights that come and go."""
        activations, _, weights = self.worst(0.0)
        return activations + weights

    def worst(self, share: float) -> tuple[int, int, int]:
        """Activations, workspace and streamed weights at the worst moment of all three.

        share: of what the largest convolution reads and writes, that a library takes as its workspace.
        """
        moments = [(round(self.head_bytes), 0, self.head_weights_bytes)]
        if self.groups:  # there are none on a step that reuses the network's output
            worst = max(self.groups, key=lambda one: one.total_bytes(share))
            workspace = round(share * worst.largest_convolution_bytes)
            moments.append((round(self.held_bytes + worst.peak_bytes), workspace, worst.weights_bytes))
        return max(moments, key=sum)

    def waiting(self, rate: float, seconds: Callable[[Work], float]) -> float:
        """Seconds that computing waits for streamed weights. rate: bytes a second. seconds: of a group's work."""
        if not self.head_weights_bytes and not self.first_bytes:
            return 0.0
        late = sum(max(0.0, one.coming_bytes / rate - seconds(one.work)) for one in self.groups)
        return self.head_weights_bytes / rate + self.passes * (self.first_bytes / rate + late)


def compose(
    table: Table, slicing: BlockSlicing, *, keep: str | None = None, given: str | None = None, streamed: bool = False
) -> NetworkCost:
    """One call with all samples of the batch together.

    keep: a value that outlives the call, which reads it last. given: a value bound from outside and not counted,
    as on a step that reuses it. streamed: weights come group by group (weights/streaming.py).
    """
    program = table.program.bind([given]) if given else table.program
    held = Held.of_inputs(table, program.inputs, frozenset((program.output, keep)))
    groups = tuple(held.run(group) for group in group_stages(replace(program, kept=keep), slicing))
    work = sum((cost.work for cost in groups), table.head.work)
    cost = NetworkCost(table.held_bytes, table.head.peak_bytes, work, groups)
    return _with_streamed_weights(cost, table) if streamed else cost


def compose_apart(
    together: Table,
    sample: Table,
    slicing: BlockSlicing,
    *,
    keep: str | None = None,
    given: str | None = None,
    streamed: bool = False,
) -> NetworkCost:
    """One call with the samples one after the other.

    together: of the whole batch, whose embeddings and result are held; sample: of one sample.
    """
    if together.batch == 1:
        return compose(together, slicing, keep=keep, given=given, streamed=streamed)
    cost = compose(sample, slicing, keep=keep, given=given, streamed=streamed)
    # The result of the first sample is held until that of the second replaces it, and so is what it keeps.
    held = together.held_bytes + together.output_bytes + sample.output_bytes
    held += sample.values[keep].nbytes * (together.batch - 1) if keep else 0
    each = sum((group.work for group in cost.groups), Work())
    work = together.head.work + each * together.batch
    return replace(cost, held_bytes=held, head_bytes=together.head.peak_bytes, work=work, passes=together.batch)


def _with_streamed_weights(cost: NetworkCost, table: Table) -> NetworkCost:
    """Beside the weights of every group, those of the next are on the device: they come while it runs."""
    if not cost.groups:  # a step that reuses what the network gave before
        return replace(cost, head_weights_bytes=table.other_weights_bytes)
    used = [table.weights_of(one.group.stages) for one in cost.groups]
    groups = []
    for one, now, ahead in zip(cost.groups, used, [*used[1:], {}], strict=True):
        coming = sum(size for tensor, size in ahead.items() if tensor not in now)
        twice = table.recast_bytes(one.group.stages) if table.cast_bytes else 0
        groups.append(replace(one, weights_bytes=sum(now.values()) + coming + twice, coming_bytes=coming))
    first = sum(used[0].values())
    return replace(cost, groups=tuple(groups), head_weights_bytes=table.other_weights_bytes, first_bytes=first)


class Held:
    """The values alive between groups, as Executor._run holds them."""

    def __init__(self, table: Table, values: dict[str, State], final: frozenset[str | None] = frozenset()) -> None:
        """final: values that are given out, each as one tensor."""
        self.table, self.values, self.final = table, values, final

    @classmethod
    def of_inputs(cls, table: Table, inputs: tuple[str, ...], final: frozenset[str | None]) -> Held:
        """What is alive before the first group: inputs are the caller's, and not counted."""
        return cls(table, {name: State(0.0, table.values[name].is_packed, False) for name in inputs}, final)

    def run(self, group: Group) -> GroupCost:
        """What a group takes; the values alive are afterwards those that it leaves.

        Of what is alive it changes only what it reads, so that it is followed once for every state of that: plans
        that are weighed against each other have most of their groups in common.
        """
        read = {name: self.values.pop(name) for name in group.reads}
        key = (_names(group), group.slices, group.keep, group.again, group.dead, self.final, *read.values())
        if key not in self.table.outcomes:
            alone = Held(self.table, dict(read), self.final)
            self.table.outcomes[key] = alone._run(group), alone.values
        cost, left = self.table.outcomes[key]
        around = self.live_bytes
        self.values |= left
        return replace(cost, group=group, peak_bytes=around + cost.peak_bytes)

    def _run(self, group: Group) -> GroupCost:
        extent = self.table.values[group.reads[0]].extent(group.axis)
        count = min(group.slices, extent)
        one = self._follow(group, extent, count)
        if not self.table.cast_bytes:
            return one
        casting = self.table.casting(group.stages) * count
        if group.again is not None and count > 1:
            casting += self.table.casting(group.stages[: group.again]) * count
        return replace(one, work=one.work + casting)

    def _follow(self, group: Group, extent: int, count: int) -> GroupCost:
        if count > 1 and group.keep != "whole":
            return GroupCost(group, *run_by_rows(self, group))
        peak = self._gather(group)
        one = self._run_whole(group) if count == 1 else self._run_slices(group, extent)
        return replace(one, peak_bytes=max(peak, one.peak_bytes))

    def _gather(self, group: Group) -> float:
        """What a group reads as single tensors."""
        peak = 0.0
        for name in group.reads:
            state, size = self.values[name], self.table.values[name].nbytes
            if state.pieces is not None:
                is_copied = state.on_host or len(state.pieces) > 1
                peak = max(peak, self.live_bytes + (size if is_copied else 0))
                self.values[name] = State(size, True, True)
        return peak

    def _run_slices(self, group: Group, extent: int) -> GroupCost:
        return self._run_sliced(group, Counter(stop - start for start, stop in bounds(extent, group.slices)))

    @property
    def live_bytes(self) -> float:
        return sum(state.nbytes for state in self.values.values())

    def _run_whole(self, group: Group) -> GroupCost:
        last = {name: index for index, stage in enumerate(group.stages) for name in stage.reads}
        keep = set(group.writes) | {name for name in group.reads if name not in group.dead}
        peak, convolution, work = 0.0, 0.0, Work()
        for index, stage in enumerate(group.stages):
            sample = self.table.whole(stage, tuple(self.values[name].packed for name in stage.reads))
            peak = max(peak, self.live_bytes + sample.peak_bytes)
            convolution = max(convolution, sample.largest_convolution_bytes)
            work += sample.work
            self.values[stage.name] = State(sample.kept_bytes, self.table.values[stage.name].is_packed, False)
            for name in stage.reads:
                if last[name] == index and name not in keep:
                    self.values.pop(name, None)
        return GroupCost(group, peak, convolution, work)

    def _run_sliced(self, group: Group, sizes: Counter[int]) -> GroupCost:
        table = self.table
        live, work = self.live_bytes, Work()
        peak = live
        if group.stages[0].norm is not None:
            first = group.stages[0]
            moments = table.norm(first, self.values[first.reads[0]].packed, sizes.total())
            peak, work = live + moments.peak_bytes, moments.work
            live += moments.kept_bytes
        slices = {size: self.slice(group, size) for size in sizes}
        for size, one in slices.items():
            work += one.work * sizes[size]

        reused = self._reuse(group)
        outputs = {name: table.values[name].nbytes for name in group.writes}
        new = sum(size for name, size in outputs.items() if name not in reused)
        smallest, largest = min(sizes), max(sizes)  # the smaller slices come first
        first = slices[smallest]
        peak = max(
            peak, live + first.peak_bytes, live + first.kept_bytes + new, live + new + slices[largest].peak_bytes
        )
        work += Work(0, 0, 2 * sum(outputs.values()), sizes.total() * len(outputs))

        for name in group.dead:
            del self.values[name]
        for name, size in outputs.items():
            self.values[name] = State(size, True, True)
        return GroupCost(group, peak, slices[largest].largest_convolution_bytes, work)

    def slice(self, group: Group, size: int, stop: int | None = None, copied: frozenset[str] = frozenset()) -> Sample:
        """One slice through all stages, or those before `stop`. copied: what it reads as tensors of its own."""
        last = {name: index for index, stage in enumerate(group.stages) for name in stage.reads}
        needed = {name for stage in group.stages[:stop] for name in stage.reads}
        local = {
            name: self.table.values[name].nbytes * size / self.table.values[name].extent(group.axis)
            for name in group.reads
            if name in needed and name in copied
        }
        peak, convolution, work = 0.0, 0.0, Work()
        for index, stage in enumerate(group.stages[:stop]):
            tags = "".join(INSIDE if n in local else PACKED if self.values[n].packed else NATURAL for n in stage.reads)
            sample = self.table.slice(stage, tags, size)
            peak = max(peak, sum(local.values()) + sample.peak_bytes)
            convolution = max(convolution, sample.largest_convolution_bytes)
            work += sample.work
            local[stage.name] = sample.kept_bytes
            for name in stage.reads:
                if last[name] == index and name not in group.writes:
                    local.pop(name, None)
        return Sample(peak, sum(local.values()), convolution, work)

    def _reuse(self, group: Group) -> set[str]:
        """Which outputs are written over a dead input of the executor's own."""
        free = [self.table.values[n] for n in group.reads if n in group.dead and self.values[n].owned]
        reused = set()
        for name in group.writes:
            value = self.table.values[name]
            fits = [other for other in free if other.dtype == value.dtype and _fits(group.axis, value, other)]
            if fits:
                free.remove(fits[0])
                reused.add(name)
        return reused


def _names(group: Group) -> tuple[str, ...]:
    """Says what a group computes and, of its values, what is read afterwards."""
    return (*(stage.name for stage in group.stages), "->", *group.writes)


def _fits(axis: Axis, value: Value, other: Value) -> bool:
    """As the executor compares slices: over rows, or pixels, the rest of the shape must agree."""
    if axis is Axis.FRAMES or len(value.shape) == 3 or len(other.shape) == 3:
        return value.shape == other.shape
    return value.shape[:2] == other.shape[:2] and value.extent(axis) == other.extent(axis)
