"""The work on an order, on whatever process it is given to: it takes plain data and yields plain data."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

import streamline

from . import words
from .events import Checked, Checking, Decoding, Event, Failed, Loading, Noted, PartDone, PartStarted, Stepped, Warming
from .models import Pipelines
from .orders import Order, Part
from .planning import device_name, dtype_of

WARM_UP_STEPS = 2
POLL_SECONDS = 0.2  # between two looks at the stop file while nothing happens
PREVIEW_SECONDS = 0.4  # between two previews
PREVIEW_FRACTION = 0.1  # of the time, at most


def make(order: Order, stop: str, pipelines: Pipelines | None = None) -> Iterator[Event]:
    """What happens while an order is made, the last event PartDone or Failed; none once it is stopped.

    stop: path of a file that ends the work as soon as it exists; a file, so that it can be made from another process.
    Loading cannot be ended, so then nobody waits for it any longer: the model is kept for later, and nothing is run.
    pipelines: loaded ones to use; without any, as in a process of its own, the model is loaded anew.
    """
    events: queue.Queue[Event | None] = queue.Queue()
    should_stop = Path(stop).exists
    claim = threading.Lock()  # taken once: by the work when it has loaded the model, or here to give up on that

    def claimed() -> bool:
        return claim.acquire(blocking=False)

    def work() -> None:
        try:
            _work(order, should_stop, claimed, pipelines or Pipelines(), events.put)
        except streamline.Cancelled:
            pass
        except BaseException as error:  # told in words to whoever waits, whatever it was
            sentence = words.failure(error)
            _free(error)
            events.put(Failed(sentence))
        finally:
            events.put(None)

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            event = events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if should_stop() and claimed():
                return
            continue
        if event is None:
            return
        yield event


def _work(
    order: Order,
    should_stop: Callable[[], bool],
    claimed: Callable[[], bool],
    pipelines: Pipelines,
    emit: Callable[[Event], None],
) -> None:
    """claimed: asked once the model is loaded, whether somebody still waits for it."""
    settings = order.settings
    emit(Loading())
    pipe = pipelines.get(settings.source, dtype_of(settings.model, settings.card))
    if should_stop() or not claimed():
        return
    pipe = streamline.place(pipe, device_name())
    device = streamline.detect(device_name())
    # Where a cap has to count tensors, an original has them counted too, or it would seem faster beside the others.
    even = None if device.kind == "cuda" or order.kind == "generate" else device.total_bytes
    for index, part in enumerate(order.parts):
        if part.is_skipped:
            continue
        if order.kind != "generate":
            emit(Warming())
            short = replace(settings.job, num_inference_steps=min(WARM_UP_STEPS, settings.job.num_inference_steps))
            plan = part.plan and replace(part.plan, rehash=None, sampler=None)
            streamline.run(pipe, short, plan, order.image, should_stop=should_stop, budget=None if plan else even)
        with ThreadPoolExecutor(1) as aside:
            report = _Reporter(pipe, emit, index, aside)
            result = streamline.run(
                pipe,
                settings.job,
                part.plan,
                order.image,
                report,
                budget=None if part.plan else even,
                should_stop=should_stop,
                prediction=part.prediction,
            )
        emit(PartDone(index, result, _receipt(pipe, order, part, result)))
    if order.check is not None:
        emit(Checking())
        with contextlib.suppress(streamline.OutOfMemory):  # the video stands, how close it is stays unknown
            original = streamline.run(pipe, settings.job, None, order.image, should_stop=should_stop)
            emit(Checked(streamline.Fidelity.of(result.frames, original.frames)))


def _receipt(pipe: DiffusionPipeline, order: Order, part: Part, result: streamline.Result) -> streamline.Receipt:
    """Of a run, with what was asked of its plan, so that the file brings it back; of a sweep that is not known."""
    settings, is_asked = order.settings, part.plan is not None and order.kind != "sweep"
    return streamline.Receipt.of(
        pipe,
        result,
        source=settings.source,
        image=order.image,
        predicted=part.prediction,
        quality=settings.quality if is_asked else None,
        card=settings.card.strip()[:200] or None if is_asked else None,
    )


class _Reporter:
    """Turns what streamline says into events of the app."""

    def __init__(
        self, pipe: DiffusionPipeline, emit: Callable[[Event], None], index: int, aside: ThreadPoolExecutor
    ) -> None:
        self._pipe, self._emit, self._index, self._aside = pipe, emit, index, aside
        self._next_preview = 0.0

    def __call__(self, event: object) -> None:
        """event: of `streamline.run`; of kinds that are not known here, what they say of themselves is told."""
        match event:
            case streamline.Started(weights_bytes=weights):
                self._emit(PartStarted(self._index, weights))
            case streamline.Step():
                figures = (event.index, event.total, event.seconds, event.live_bytes, event.peak_bytes)
                self._emit(Stepped(*figures, self._preview(event)))
            case streamline.Decoding():
                self._emit(Decoding())
            case object(sentence=str(sentence)):
                self._emit(Noted(sentence))

    def _preview(self, step: streamline.Step) -> tuple[Image.Image, ...]:
        """Pictures of the latents now and then, made on a thread where the tensors of a run are not counted."""
        began = time.monotonic()
        if began < self._next_preview:
            return ()
        pictures = self._aside.submit(streamline.preview, self._pipe, step.latents).result()
        ended = time.monotonic()
        self._next_preview = ended + max(PREVIEW_SECONDS, (ended - began) / PREVIEW_FRACTION)
        return pictures


def _free(error: BaseException) -> None:
    """Let go of what the calls that failed still hold: all the activations of a run, and the model itself."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
