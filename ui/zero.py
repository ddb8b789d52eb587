"""Hugging Face's ZeroGPU, where a GPU is lent to a call, in a process of its own, for as long as the call says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import streamline

from .events import Event, Failed, Loading
from .orders import Order

LEAST_SECONDS, MOST_SECONDS = 20, 300
LOADING_SECONDS = 30
MARGIN = 1.5  # over what is predicted; a call that takes longer is cut off
CARD = "H100 80GB"  # of the cards whose rates are known, the nearest to what is lent
Maker = Callable[[Order, str], Iterator[Event]]


def on_gpu(make: Maker, fetch: Callable[[Order], object]) -> Maker:
    """The maker, on a lent GPU, by the `spaces` package; for where that is (`is_here`).

    It is given and gives plain data, for nothing else reaches another process.
    fetch: brings the files of an order's model before a GPU is asked for, which nobody should hold during a download.
    """
    import spaces

    lent = spaces.GPU(duration=seconds_of)(make)

    def made(order: Order, stop: str) -> Iterator[Event]:
        yield Loading()
        try:
            fetch(order)
        except streamline.StreamlineError as error:
            yield Failed(str(error))
            return
        yield from lent(order, stop)

    return made


def where() -> tuple[streamline.Device, streamline.Rates]:
    """What is lent, as a plan needs it. Here a GPU only seems to be there: whoever measures it ends in an error."""
    return streamline.detect(), streamline.emulate(CARD)[1]


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
