"""Runs jobs on a thread of their own, one at a time, and turns their events into readings of the moment."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace

from diffusers import DiffusionPipeline
from PIL import Image

import streamline


class Stopped(Exception):
    """The run was stopped from outside."""


@dataclass(frozen=True)
class Reading:
    """A run at one moment. Bytes include the weights; result is there once all is done, trouble if it never will."""

    status: str
    total: int = 0
    step_seconds: tuple[float, ...] = ()
    live_bytes: int = 0
    peak_bytes: int = 0
    weights_bytes: int = 0
    result: streamline.Result | None = None
    trouble: str = ""


class Studio:
    """Keeps the model that was used last, and knows the run of each session."""

    def __init__(self) -> None:
        self._one_run = threading.Lock()
        self._loaded: tuple[str, DiffusionPipeline] | None = None
        self._runs: dict[str, tuple[threading.Event, queue.Queue]] = {}

    def stop(self, session: str) -> None:
        """End this session's run for its reader now, and its work at the next step; without a run, do nothing."""
        if session in self._runs:
            stop, events = self._runs[session]
            stop.set()
            events.put(Stopped())

    def make(
        self,
        session: str,
        model: str,
        given: dict,
        plan: streamline.Plan | None,
        image: Image.Image | None,
    ) -> Iterator[Reading]:
        """Readings of a run, the last with its result. given: what the job is to differ in from the model's own.

        Raises what the run raises, and Stopped.
        """
        stop, events = self._runs[session] = threading.Event(), queue.Queue()

        def on_event(event: object) -> None:
            if stop.is_set():
                raise Stopped
            events.put(event)

        def work() -> None:
            try:
                with self._one_run:
                    on_event(Reading("Loading the model"))
                    pipe = self._pipeline(model)
                    job = streamline.Job.for_model(pipe, **given)
                    events.put(streamline.run(pipe, job, plan, image, on_event))
            except BaseException as error:  # handed to the thread that waits for it
                _free(error)
                events.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            reading = Reading("Waiting for another run")
            yield reading
            while reading.result is None:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                reading = _read(reading, event)
                yield reading
        finally:
            stop.set()
            self._runs.pop(session, None)

    def _pipeline(self, model: str) -> DiffusionPipeline:
        if self._loaded is None or self._loaded[0] != model:
            self._loaded = None  # its memory is needed for the next one
            pipe = streamline.load(model)
            pipe.set_progress_bar_config(disable=True)
            self._loaded = (model, pipe)
        return self._loaded[1]


def _free(error: BaseException) -> None:
    """Let go of what the calls that failed still hold: all the activations of a run, and the model itself."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__


def _read(reading: Reading, event: object) -> Reading:
    match event:
        case Reading():
            return event
        case streamline.Started(job=job, weights_bytes=weights):
            return replace(reading, status="Denoising", total=job.num_inference_steps, weights_bytes=weights)
        case streamline.Step():
            return replace(
                reading,
                total=event.total,
                step_seconds=(*reading.step_seconds, event.seconds),
                live_bytes=event.live_bytes,
                peak_bytes=event.peak_bytes,
            )
        case streamline.Decoding():
            return replace(reading, status="Decoding")
        case streamline.Finished(peak_bytes=peak):
            return replace(reading, status="Writing", peak_bytes=peak)
        case streamline.Result():
            return replace(reading, status="Done", result=event)
    raise TypeError(f"not an event: {event!r}")
