"""The memory and work of a network under any slicing, composed from what its stages take.

Groups are walked as they are run (program/walk.py), with sizes for tensors (ledger.py): the peak of a program is the
highest of its groups, its work is the sum over them. Nothing is run, so a plan is judged in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..plan import BlockSlicing
from ..program.groups import Group, group_stages
from ..program.walk import walk
from .ledger import Ledger, State
from .measuring import Work
from .table import Table


@dataclass(frozen=True)
class GroupCost:
    """One group of stages.

    peak_bytes: the most that is alive while it runs. largest_convolution_bytes: as in Sample.
    weights_bytes: of offloaded weights that are on the device meanwhile. coming_bytes: the part of them that is sent
    while it runs, for the group that follows.
    """

    group: Group
    peak_bytes: float
    largest_convolution_bytes: float
    work: Work
    weights_bytes: int = 0
    coming_bytes: int = 0

    def total_bytes(self, fraction: float) -> float:
        """Return the peak with offloaded weights, and with workspace as in `NetworkCost.worst`."""
        return self.peak_bytes + self.weights_bytes + fraction * self.largest_convolution_bytes


@dataclass(frozen=True)
class NetworkCost:
    """One call of a network under one slicing. Bytes are of activations, without weights and arguments.

    held_bytes: what is alive around every group, to be added to its peak. head_bytes: the peak before the first.
    head_weights_bytes: of offloaded weights that are there before the first group. first_bytes: of those that it needs.
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

    def worst(self, fraction: float) -> tuple[int, int, int]:
        """Activations, workspace and offloaded weights at the worst moment of all three.

        fraction: of what the largest convolution reads and writes, that a library takes as its workspace.
        """
        moments = [(round(self.head_bytes), 0, self.head_weights_bytes)]
        if self.groups:  # there are none on a step that reuses the network's output
            worst = max(self.groups, key=lambda one: one.total_bytes(fraction))
            workspace = round(fraction * worst.largest_convolution_bytes)
            moments.append((round(self.held_bytes + worst.peak_bytes), workspace, worst.weights_bytes))
        return max(moments, key=sum)

    def waiting(self, rate: float, seconds: Callable[[Work], float]) -> float:
        """Return seconds that computing waits for offloaded weights. rate: bytes a second.
        seconds: of a group's work."""
        if not self.head_weights_bytes and not self.first_bytes:
            return 0.0
        late = sum(max(0.0, one.coming_bytes / rate - seconds(one.work)) for one in self.groups)
        return self.head_weights_bytes / rate + self.passes * (self.first_bytes / rate + late)


def compose(
    table: Table, slicing: BlockSlicing, *, keep: str | None = None, given: str | None = None, offloaded: bool = False
) -> NetworkCost:
    """Return the cost of one call with all samples as one batch.

    keep: a value that outlives the call, which reads it last. given: a value bound from outside and not counted,
    as on a step that reuses it. offloaded: weights come group by group (weights/offloading.py).
    """
    program = table.program.bind([given]) if given else table.program
    groups = tuple(_follow(table, group_stages(replace(program, kept=keep), slicing), program.inputs))
    work = sum((cost.work for cost in groups), table.head.work)
    cost = NetworkCost(table.held_bytes, table.head.peak_bytes, work, groups)
    return _with_offloaded_weights(cost, table) if offloaded else cost


def compose_sequential(
    batched: Table,
    sample: Table,
    slicing: BlockSlicing,
    *,
    keep: str | None = None,
    **options: str | bool | None,
) -> NetworkCost:
    """Return the cost of one call with the samples one after the other; options as for `compose`.

    batched: of the whole batch, whose embeddings and result are held; sample: of one sample.
    """
    cost = compose(sample, slicing, keep=keep, **options)
    if batched.batch == 1:
        return cost
    # The result of the first sample is held until that of the second replaces it, and so is what it keeps.
    held = batched.held_bytes + batched.output_bytes + sample.output_bytes
    held += sample.values[keep].nbytes * (batched.batch - 1) if keep else 0
    each = sum((group.work for group in cost.groups), Work())
    work = batched.head.work + each * batched.batch
    return replace(cost, held_bytes=held, head_bytes=batched.head.peak_bytes, work=work, passes=batched.batch)


def _with_offloaded_weights(cost: NetworkCost, table: Table) -> NetworkCost:
    """Beside the weights of every group, those of the next are on the device: they come while it runs."""
    if not cost.groups:  # a step that reuses what the network gave before
        return replace(cost, head_weights_bytes=table.other_weights_bytes)
    used = [table.weights_of(one.group.stages) for one in cost.groups]
    groups = []
    for one, now, prefetched in zip(cost.groups, used, [*used[1:], {}], strict=True):
        coming = sum(size for tensor, size in prefetched.items() if tensor not in now)
        twice = table.recast_bytes(one.group.stages) if table.cast_bytes else 0
        groups.append(replace(one, weights_bytes=sum(now.values()) + coming + twice, coming_bytes=coming))
    first = sum(used[0].values())
    return replace(cost, groups=tuple(groups), head_weights_bytes=table.other_weights_bytes, first_bytes=first)


def _follow(table: Table, groups: tuple[Group, ...], inputs: tuple[str, ...]) -> Iterator[GroupCost]:
    """What groups take, one after the other; inputs are the caller's, and not counted.

    Of what is alive a group changes only what it reads, so that it is followed once for every state of that: plans that
    are weighed against each other have most of their groups in common.
    """
    alive = {name: State(0.0, table.values[name].is_packed, False) for name in inputs}
    for group in groups:
        read = {name: alive.pop(name) for name in group.reads}
        names = tuple(stage.name for stage in group.stages)
        how = _count(table, group), group.keep, group.again
        key = (names, group.writes, group.final, group.dead, how, *read.values())
        if key not in table.outcomes:
            ledger = Ledger(table, read)
            walk(group, ledger)
            work = ledger.work + _casting(table, group) if table.cast_bytes else ledger.work
            one = GroupCost(group, ledger.peak_bytes, ledger.largest_convolution_bytes, work)
            table.outcomes[key] = one, ledger.values
        cost, left = table.outcomes[key]
        around = sum(state.nbytes for state in alive.values())
        alive |= left
        yield replace(cost, group=group, peak_bytes=around + cost.peak_bytes)


def _count(table: Table, group: Group) -> int:
    return min(group.slices, table.values[group.along].extent(group.axis))


def _casting(table: Table, group: Group) -> Work:
    """Casting the weights of a group's layers, for every slice anew."""
    count = _count(table, group)
    casting = table.casting(group.stages) * count
    if group.again is not None and count > 1:
        casting += table.casting(group.stages[: group.again]) * count
    return casting
