"""When memory runs out in spite of a plan: let go of the call that failed, downgrade the plan, make the call again.

Another program may take what a plan counted on. A network's call changes nothing outside itself, so the same denoising
step, or the same decoding, is made again at the next level, and the pipeline around it never notices: no latents are
lost. The downgraded plan stays for the rest of the run. Every level is as exact as the plan it comes from.

Everywhere else the whole pipeline is called again (resuming.py), once what lies unused was given back, and then once
more with no network on the device but the one at work.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import OutOfMemory, is_out_of_memory
from ..plan import EVERY_BLOCK, Plan, Slicing
from .at_work import Where

FINEST = 64  # slices; the whole values between the groups are what is left by then

ADVICE = "close what else uses this memory, or make fewer or smaller frames"

Part = Literal["denoiser", "decoder"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanDowngraded:
    """Memory ran out, and what was being done is done again. plan: from now on.

    part: the network whose call is made again by a downgraded plan; "pipeline" where room was made for something else.
    """

    part: Part | Literal["pipeline"]
    plan: Plan

    @property
    def sentence(self) -> str:
        """Return why, for people."""
        return self.plan.reasons[-1]


class OutOfMemoryFallback:
    """The plan of a run, downgraded by a level whenever memory runs out. on_downgrade: told of every time."""

    def __init__(self, plan: Plan, on_downgrade: Callable[[PlanDowngraded], object] | None = None) -> None:
        self.plan = plan
        self._on_downgrade = on_downgrade
        self._released: set[Where] = set()

    def call(self, part: Part, run: Callable[..., object], *args: object, **kwargs: object) -> object:
        """Return run(slicing, sequential, *args, **kwargs) by the first plan from here on with memory enough.

        Raises OutOfMemory after the last level.
        """
        while True:
            try:
                return run(getattr(self.plan, part), self.plan.guidance == "sequential", *args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with it all that the call still held.
            plan = next_level(self.plan, part, _samples(part, args, kwargs))
            _give_back()
            if plan is None:
                raise OutOfMemory(f"Memory ran out in the {part}, cut as finely as it can be; make fewer frames.")
            self._downgrade(part, plan)

    def release(self, where: Where, model_offload: Callable[[], bool]) -> None:
        """Make room after memory ran out outside the calls of the networks, so that it can be done again.

        model_offload: takes networks that are not at work off the device, and says whether there were any.
        Raises OutOfMemory when there is nothing left to give back.
        """
        _give_back()
        if where not in self._released:
            self._released.add(where)
            reason = f"Memory ran out {where}: what lay unused was given back, and it is done again."
            self._downgrade("pipeline", _because(self.plan, reason))
        elif model_offload():
            reason = f"Memory ran out {where}: networks are now on the device only while they work."
            self._downgrade("pipeline", _because(replace(self.plan, residency="model offload"), reason))
        else:
            raise OutOfMemory(f"Memory ran out {where}, with nothing left to give back; {ADVICE}.")

    def _downgrade(self, part: Part | Literal["pipeline"], plan: Plan) -> None:
        self.plan = plan
        downgraded = PlanDowngraded(part, plan)
        log.warning(downgraded.sentence)
        if self._on_downgrade is not None:
            self._on_downgrade(downgraded)


def next_level(plan: Plan, part: Part, samples: int) -> Plan | None:
    """Return the next plan for a network that ran out of memory; None where there is none.

    Guidance halves one after the other first, which costs least, then twice as many slices of every block.
    samples: in the batch of the call.
    """
    if part == "denoiser" and plan.guidance == "batched" and samples > 1:
        return _because(
            replace(plan, guidance="sequential"), "Memory ran out in the denoiser: guidance is sequential now."
        )
    blocks = {EVERY_BLOCK: Slicing()} | dict(getattr(plan, part))
    finer = {block: _finer(slicing) for block, slicing in blocks.items()}
    if finer == blocks:
        return None
    most = max(max(slicing.frames, slicing.pixels) for slicing in finer.values())
    return _because(
        replace(plan, **{part: finer}), f"Memory ran out in the {part}: it is now cut into up to {most} slices."
    )


def _finer(slicing: Slicing) -> Slicing:
    """Return twice as many slices, up to the finest; what is finer already stays."""
    frames, pixels = (max(count, min(2 * count, FINEST)) for count in (slicing.frames, slicing.pixels))
    return replace(slicing, frames=frames, pixels=pixels)


def _because(plan: Plan, reason: str) -> Plan:
    return replace(plan, reasons=(*plan.reasons, reason))


def _samples(part: Part, args: tuple, kwargs: dict) -> int:
    """Return how many samples a denoiser is called with: the length of its latents, the first video among them."""
    if part != "denoiser":
        return 1
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim > 2)
    return next(map(len, tensors), 1)  # tokens have three dimensions, latents more


def _give_back() -> None:
    """Free what only cycles hold, and let other programs have what torch keeps for itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
