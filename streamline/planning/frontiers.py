"""The slicings of one network that are worth choosing: none is both smaller and faster than another.

Memory first: for a limit, every block takes its fastest slicing whose groups all stay within it. Groups of
different blocks hardly depend on each other, so one uniform slicing after the other tells what every group takes
at every number of slices; what a combination really takes is then composed as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from ..cost.network_cost import NetworkCost
from ..plan import BlockSlicing, Keep, Slicing
from ..program.axes import Axis

# Numbers of slices that are tried: closer together where they matter more.
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 25, 32, 48, 64)
LIMITS = 24  # between the smallest peak and the unsliced one
REPAIRS = 4


@dataclass(frozen=True)
class Choice:
    """One slicing of a network. bytes: activations and workspace at the worst moment. seconds: of one call.

    limited_by: the block of the group that has the peak.
    """

    slicing: BlockSlicing
    bytes: int
    seconds: float
    limited_by: str

    def to_list(self) -> list:
        blocks = [[block, *astuple(slicing)] for block, slicing in self.slicing]
        return [blocks, self.bytes, self.seconds, self.limited_by]

    @classmethod
    def from_list(cls, fields: list) -> Choice:
        blocks, *others = fields
        return cls(tuple((block, Slicing(*counts)) for block, *counts in blocks), *others)


Slot = tuple[str, Axis]
Measure = Callable[[NetworkCost], tuple[int, float]]


def frontier(
    cost_of: Callable[[BlockSlicing], NetworkCost],
    measure: Measure,
    fraction: float,
    keeps: tuple[Keep, ...] = ("whole",),
) -> tuple[Choice, ...]:
    """Return the same as `frontier_keeping`, of all these ways to keep values between groups."""
    return pareto([choice for keep in keeps for choice in frontier_keeping(keep, cost_of, measure, fraction)])


def frontier_keeping(
    keep: Keep, cost_of: Callable[[BlockSlicing], NetworkCost], measure: Measure, fraction: float
) -> tuple[Choice, ...]:
    """Return choices from the fastest to the smallest; each is smaller than the one before it.

    cost_of: composes one call under a slicing. measure: its bytes and seconds on the device.
    fraction: of the largest convolution, that counts as memory.
    """
    uniform = [cost_of((("*", Slicing(count, count, keep=keep)),)) for count in COUNTS]
    slots = _slots(uniform[0])
    peaks = [_peaks(cost, fraction) for cost in uniform]
    times = [_seconds(cost, measure) for cost in uniform]

    found: dict[BlockSlicing, Choice] = {}

    def try_out(levels: dict[Slot, int]) -> tuple[NetworkCost, Choice]:
        slicing = _slicing(levels, keep)
        cost = cost_of(slicing)
        if slicing not in found:
            size, seconds = measure(cost)
            found[slicing] = Choice(slicing, size, seconds, _limiting(cost, fraction))
        return cost, found[slicing]

    lowest = max(min(column) for column in zip(*peaks, strict=True))
    highest = max(peaks[0])
    ratio = max(highest / lowest, 1.0)
    for step in range(LIMITS + 1):
        limit = lowest * ratio ** (step / LIMITS) * (1 + 1e-9)
        levels = _levels(slots, peaks, times, limit)
        for _ in range(REPAIRS + 1):
            cost, _ = try_out(levels)
            too_large = [i for i, peak in enumerate(_peaks(cost, fraction)) if peak > limit]
            finer = _refine(levels, slots, too_large, peaks)
            if finer == levels:
                break
            levels = finer
    try_out(dict.fromkeys({slot for group in slots for slot in group}, 0))
    return pareto(found.values())


def pareto(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Those that no other one beats in both, the fastest first."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda one: (one.seconds, one.bytes, repr(one.slicing))):
        if not kept or choice.bytes < kept[-1].bytes:
            kept.append(choice)
    return tuple(kept)


def _slots(cost: NetworkCost) -> list[list[Slot]]:
    """For every group the blocks it spans, each with the group's axis."""
    return [
        list(dict.fromkeys((stage.block, group.group.axis) for stage in group.group.stages)) for group in cost.groups
    ]


def _peaks(cost: NetworkCost, fraction: float) -> list[float]:
    return [cost.held_bytes + group.peak_bytes + fraction * group.largest_convolution_bytes for group in cost.groups]


def _seconds(cost: NetworkCost, measure: Measure) -> list[float]:
    """Of every group by itself."""
    return [measure(NetworkCost(0, 0, group.work, (group,)))[1] for group in cost.groups]


def _levels(
    slots: list[list[Slot]], peaks: list[list[float]], times: list[list[float]], limit: float
) -> dict[Slot, int]:
    """For every block and axis the fastest number of slices (as an index into COUNTS) that keeps to the limit."""
    groups = defaultdict(list)
    for index, spanned in enumerate(slots):
        for slot in spanned:
            groups[slot].append(index)
    levels = {}
    for slot, indices in groups.items():
        highest = [max(column[index] for index in indices) for column in peaks]
        total = [sum(column[index] for index in indices) for column in times]
        fitting = [level for level, peak in enumerate(highest) if peak <= limit]
        levels[slot] = min(
            fitting or range(len(COUNTS)),
            key=lambda level: (total[level] if fitting else highest[level], level),
        )
    return levels


def _refine(
    levels: dict[Slot, int], slots: list[list[Slot]], too_large: list[int], peaks: list[list[float]]
) -> dict[Slot, int]:
    """One more step for the blocks of groups that are still too large, where finer slices would help."""
    finer = dict(levels)
    for index in too_large:
        for slot in slots[index]:
            better = [
                level
                for level in range(levels[slot] + 1, len(COUNTS))
                if peaks[level][index] < peaks[levels[slot]][index]
            ]
            if better:
                finer[slot] = max(finer[slot], better[0])
    return finer


def _slicing(levels: dict[Slot, int], keep: Keep) -> BlockSlicing:
    blocks = defaultdict(dict)
    for (block, axis), level in levels.items():
        blocks[block][axis.counted] = COUNTS[level]
    return tuple(sorted((block, Slicing(**counts, keep=keep)) for block, counts in blocks.items()))


def _limiting(cost: NetworkCost, fraction: float) -> str:
    peaks = _peaks(cost, fraction)
    return cost.groups[peaks.index(max(peaks))].group.stages[0].block
