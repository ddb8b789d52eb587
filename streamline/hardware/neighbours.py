"""Neighbours: what else uses a machine while a run is made, and so why that is slow, or may run out of memory.

`look` reads what the system counts anyway, without waiting for a GPU; what to make of two looks is a pure matter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from ..sizes import format_bytes
from .detection import detect
from .device import Device

NOTABLE_BYTES = 64 * 2**20  # what less is taken or moved makes no difference
BUSY_FRACTION = 0.6  # of all processors, that others keep so busy that it is felt


@dataclass(frozen=True)
class Moment:
    """A machine at one moment.

    seconds: of a clock. device: as it was detected then. held_bytes: of the device, by this run.
    swapped_bytes: read back from disk since the machine started, for want of memory.
    busy_seconds: of all `processors`, spent for other processes since then.
    """

    seconds: float
    device: Device
    held_bytes: int
    swapped_bytes: int
    busy_seconds: float
    processors: int

    @property
    def spilled_bytes(self) -> int:
        """What this process believes to hold on a GPU beyond what all together hold there.

        Windows moves it to main memory without a word, where it is slower by far.
        """
        if self.device.kind != "cuda":
            return 0
        return max(0, self.held_bytes - (self.device.total_bytes - self.device.free_bytes))


def look(device: Device, held_bytes: int) -> Moment:
    """Return the machine now. held_bytes: of the device, by this run."""
    now = detect(f"{device.kind}:{device.index}" if device.kind == "cuda" else device.kind)
    spent, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = spent.idle + getattr(spent, "iowait", 0.0) + getattr(spent, "guest", 0.0) + getattr(spent, "guest_nice", 0.0)
    return Moment(
        seconds=time.perf_counter(),
        device=now,
        held_bytes=held_bytes,
        swapped_bytes=psutil.swap_memory().sin,
        busy_seconds=sum(spent) - idle - own.user - own.system,
        processors=psutil.cpu_count() or 1,
    )


def cause_of_slowness(first: Moment, before: Moment, now: Moment) -> str:
    """Return what most likely made slow what was done between `before` and `now`, as a clause.
    first: when the run began."""
    name = now.device.name
    if now.spilled_bytes >= NOTABLE_BYTES:
        return f"{format_bytes(now.spilled_bytes)} of what this run holds were moved from {name} to main memory"
    if (swapped := now.swapped_bytes - before.swapped_bytes) >= NOTABLE_BYTES:
        return f"main memory is short, and {format_bytes(swapped)} were read back from disk meanwhile"
    if now.device.kind != "cpu" and (taken := _taken(first, now)) >= NOTABLE_BYTES:
        return f"another program has begun to use {name}, and holds {format_bytes(taken)} of it"
    busy = (now.busy_seconds - before.busy_seconds) / max(now.seconds - before.seconds, 1e-9)
    if busy >= BUSY_FRACTION * now.processors:
        return f"other programs keep {min(busy, now.processors):.1f} of {now.processors} processors busy"
    return "nothing else that this machine does explains it"


def shortage(first: Moment, now: Moment, needed_bytes: int) -> str | None:
    """Return a sentence if others have taken what a run may still need, or None.
    needed_bytes: of the device, in all."""
    taken = _taken(first, now)
    own = now.device.own_bytes if now.device.kind == "cuda" else 0  # torch's allocator has some to spare
    missing = needed_bytes - max(now.held_bytes, own) - now.device.free_bytes
    if taken < NOTABLE_BYTES or missing <= 0:
        return None
    return (
        f"Other programs have taken {format_bytes(taken)} of the memory of {now.device.name} since this run began: "
        f"it lacks {format_bytes(missing)} of what it may need."
    )


def _taken(first: Moment, now: Moment) -> int:
    return now.device.used_by_others_bytes - first.device.used_by_others_bytes
