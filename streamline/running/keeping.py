"""What a pipeline does to its parts while it runs: seen, and undone where it fails on the way."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from diffusers import SchedulerMixin
from torch import Tensor, nn


@contextlib.contextmanager
def keeping_expected(scheduler: SchedulerMixin, expected: list[Tensor]) -> Iterator[None]:
    """Put the clean latents that each step of a scheduler expects into a list of one, if it says what they are."""
    step, before = scheduler.step, vars(scheduler).get("step")

    @functools.wraps(step)
    def keeping(*args: object, **kwargs: object) -> object:
        output = step(*args, **kwargs)
        latents = getattr(output, "pred_original_sample", None)
        expected[:] = [] if latents is None else [latents]
        return output

    scheduler.step = keeping
    try:
        yield
    finally:
        expected.clear()
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before


@contextlib.contextmanager
def keeping_dtype(network: nn.Module) -> Iterator[None]:
    """Undo after an error what a pipeline does meanwhile: an autoencoder may be in float32 to encode a picture."""
    dtype = network.dtype
    try:
        yield
    except BaseException:
        if any(weight.dtype != dtype for weight in network.parameters()):
            network.to(dtype)
        raise
