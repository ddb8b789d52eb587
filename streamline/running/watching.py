"""Slowdown warnings: where a step is far slower than it should be, the likely cause on this machine is named."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass

from ..hardware.device import Device
from ..hardware.neighbours import cause_of_slowness, look, shortage
from ..plan import Plan
from ..prediction import Prediction

FAR_SLOWER = 3.0  # times what was expected
NOTABLE_SECONDS = 2.0  # more than expected; less is nobody's trouble
PAUSE = 1.0  # seconds between two looks, unless something was slow
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Disturbed:
    """A slowdown warning: something outside a run slows it down, or takes the memory it counts on.

    sentence: what, for people.
    """

    sentence: str


class Watch:
    """Watches over one run. It looks between steps only, and warns of every kind of thing once.

    prediction: what the run was to take, if that is known. needed_bytes: what it may hold on the device.
    """

    def __init__(
        self,
        device: Device,
        plan: Plan | None,
        prediction: Prediction | None,
        needed_bytes: int | None,
        held_bytes: int,
    ) -> None:
        self._device, self._plan, self._prediction = device, plan, prediction
        known = [size for size in (needed_bytes, prediction and prediction.peak_bytes) if size]
        self._needed_bytes = min(known, default=0)
        self._first = self._last = look(device, held_bytes)
        self._is_slow = self._is_short = False
        self._others = 0  # the last step that tells nothing of those after it: the first of all loads kernels

    def replanned(self, index: int) -> None:
        """Forget what was known of the plan before: a step, or the decoding, is made again by another one."""
        self._prediction, self._others = None, index

    def step(self, steps: list[float], held_bytes: int) -> list[Disturbed]:
        """Return the warnings after a step. steps: seconds of all until now."""
        index, seconds = len(steps) - 1, steps[-1]
        if index == 0:  # by now the driver has loaded the kernels, which is not always told as our own
            self._first = look(self._device, held_bytes)
        stage = "denoise" if self._is_full(index) else "denoise, rehash"
        known = range(self._others + 1, index)
        alike = [steps[at] for at in known if self._is_full(at) is self._is_full(index)]
        usual = [statistics.median(alike)] if len(alike) > 1 else []
        if index > 0:  # whose first kernels, and weights, have to be loaded
            usual += self._predicted(stage)
        return self._judge(f"Step {index + 1}", seconds, usual, held_bytes)

    def decoded(self, seconds: float, held_bytes: int) -> list[Disturbed]:
        """Return the warnings at the end. seconds: of all that came after the steps."""
        return self._judge("Decoding", seconds, self._predicted("decode"), held_bytes)

    def _judge(self, what: str, seconds: float, usual: list[float], held_bytes: int) -> list[Disturbed]:
        usual = [one for one in usual if seconds > FAR_SLOWER * one and seconds > one + NOTABLE_SECONDS]
        if not usual and time.perf_counter() < self._last.seconds + PAUSE:
            return []
        before, self._last = self._last, look(self._device, held_bytes)
        said = []
        if usual and not self._is_slow:
            self._is_slow = True
            cause = cause_of_slowness(self._first, before, self._last)
            said.append(f"{what} took {seconds:.1f} s instead of about {min(usual):.1f} s: {cause}.")
        if held_bytes and not self._is_short and (sentence := shortage(self._first, self._last, self._needed_bytes)):
            self._is_short = True
            said.append(sentence)
        for sentence in said:
            log.warning(sentence)
        return [Disturbed(sentence) for sentence in said]

    def _is_full(self, index: int) -> bool:
        return self._plan is None or self._plan.rehash is None or self._plan.rehash.is_full(index)

    def _predicted(self, name: str) -> list[float]:
        """Return the seconds of one time of a stage, if they were predicted."""
        stages = self._prediction.stages if self._prediction is not None else ()
        return [stage.seconds / stage.count for stage in stages if stage.name == name and stage.count]
