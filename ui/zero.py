"""Hugging Face's ZeroGPU, where a GPU is lent to a call, in a process of its own, for as long as the call says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from .events import Event
from .orders import Order

LEAST_SECONDS, MOST_SECONDS = 20, 300
LOADING_SECONDS = 30
MARGIN = 1.5  # over what is predicted; a call that takes longer is cut off
Maker = Callable[[Order, str], Iterator[Event]]


def on_gpu(make: Maker) -> Maker:
    """The maker, on a lent GPU where the `spaces` package is there, and as it is elsewhere.

    It is given and gives plain data, for nothing else reaches another process.
    """
    try:
        import spaces
    except ImportError:
        return make
    return spaces.GPU(duration=seconds_of)(make)


def is_here() -> bool:
    """Whether GPUs are lent here."""
    try:
        import spaces  # noqa: F401
    except ImportError:
        return False
    return True


def seconds_of(order: Order, stop: str) -> int:
    """How long to ask for a GPU: what is predicted for all parts, with a margin, and the time to load the model."""
    predicted = sum(part.prediction.seconds for part in order.parts if part.prediction and not part.is_skipped)
    predicted += 0 if order.check is None else order.check.seconds
    return min(MOST_SECONDS, max(LEAST_SECONDS, math.ceil(LOADING_SECONDS + MARGIN * predicted)))
