"""The service behind the page: one queue of orders for everyone, and what became of each. It knows no web."""

from __future__ import annotations

import contextvars
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
from PIL import Image

import streamline

from . import words
from .events import Checked, Checking, Decoding, Event, Failed, Loading, Noted, PartDone, PartStarted, Stepped, Warming
from .gallery import Gallery
from .journal import note
from .orders import Kind, Order

Status = Literal[
    "waiting", "loading", "warming", "denoising", "decoding", "checking", "writing", "done", "failed", "cancelled"
]
OVER = ("done", "failed", "cancelled")
MOST_WAITING = 20
REMEMBERED = 12  # orders that are over
FIDELITIES = 256  # measured by comparisons
SAMPLE_SECONDS = 0.25
NOUNS = {"generate": "video", "compare": "comparison", "sweep": "comparison"}  # of a sort, one is made at a time
Maker = Callable[[Order, str], Iterator[Event]]


@dataclass(frozen=True)
class MemorySample:
    """Memory at one moment. seconds: since the part began. peak_bytes: the most on the device so far."""

    seconds: float
    live_bytes: int
    peak_bytes: int
    process_bytes: int


@dataclass(frozen=True)
class View:
    """An order at one moment. version: grows with every change. ahead: orders to be made before it.

    part: index of the one being made. samples, steps: of that part. results: by part, None where there is none; of a
    sweep they come without frames. psnr: by part, of every frame in dB against the original; () where a sweep has none.
    notes: what the runs said of themselves. run: the name of the finished video in the gallery.
    began: when work on it began, in seconds of time.time().
    """

    id: str
    order: Order
    status: Status = "waiting"
    version: int = 0
    ahead: int = 0
    part: int = 0
    weights_bytes: int = 0
    total_steps: int = 0
    steps: tuple[Stepped, ...] = ()
    samples: tuple[MemorySample, ...] = ()
    preview: tuple[Image.Image, ...] = ()
    results: tuple[streamline.Result | None, ...] = ()
    receipts: tuple[streamline.Receipt | None, ...] = ()
    psnr: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    trouble: str = ""
    run: str = ""
    began: float = 0.0
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    @property
    def seconds_left(self) -> float | None:
        """Until the part being made is done, from its steps so far; None while there is nothing to go by."""
        part = self.order.parts[self.part]
        if self.status != "denoising" or part.prediction is None:
            return None
        done, total = len(self.steps), self.total_steps or self.order.settings.job.num_inference_steps
        predicted = sum(stage.seconds for stage in part.prediction.stages if stage.name == "denoise")
        rest = part.prediction.seconds - predicted
        pace = sum(step.seconds for step in self.steps) / done if done else predicted / max(total, 1)
        return (total - done) * pace + rest


@dataclass
class _Entry:
    """original: frames that the other runs of a sweep are compared with, while it is made."""

    owner: str
    view: View
    stop: Path
    context: contextvars.Context
    part_began: float = 0.0
    original: tuple[Image.Image, ...] = ()


class Service:
    """Takes orders, makes one at a time, and keeps what became of them.

    An order belongs to who gave it: every call names its owner, and nobody sees another's.
    """

    def __init__(self, make: Maker, gallery: Gallery, on_done: Callable[[], None] = lambda: None) -> None:
        """make: does the work. on_done: called after every order."""
        self.gallery = gallery
        self._make = make
        self._on_done = on_done
        self._changed = threading.Condition()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._waiting: list[str] = []
        self._fidelities: OrderedDict[tuple, streamline.Fidelity] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory(prefix="streamline-")
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, owner: str, order: Order, alone: bool = False) -> str:
        """Put an order into the queue; returns its id.

        alone: only if `refuse_second` does not mind. Raises InputError then, and when too many are waiting.
        """
        with self._changed:
            if alone:
                self.refuse_second(owner, order.kind)
            if len(self._waiting) >= MOST_WAITING:
                raise streamline.InputError(f"{MOST_WAITING} orders are waiting already; try again in a while.")
            name = secrets.token_urlsafe(12)
            nothing = (None,) * len(order.parts)
            view = View(name, order, results=nothing, receipts=nothing, psnr=((),) * len(order.parts))
            stop = Path(self._folder.name) / name
            self._entries[name] = _Entry(owner, view, stop, contextvars.copy_context())
            self._waiting.append(name)
            self._count_ahead()
            self._forget()
            self._changed.notify_all()
        settings = order.settings
        note("submitted", order=name, kind=order.kind, model=settings.model, quality=settings.quality,
             size=f"{settings.job.width}x{settings.job.height}", frames=settings.job.num_frames,
             steps=settings.job.num_inference_steps, budget=settings.budget_bytes)  # fmt: skip
        return name

    def refuse_second(self, owner: str, kind: Kind) -> None:
        """Raise InputError while an order of a sort is made for its owner, whom a second one would keep from it."""
        if self.running(owner, kind) is not None:
            raise streamline.InputError(f"Your last {NOUNS[kind]} is still being made; cancel it first.")

    def running(self, owner: str, kind: Kind) -> View | None:
        """The last order of a sort that is waiting or being made for its owner."""
        with self._changed:
            views = [entry.view for entry in self._entries.values() if entry.owner == owner and not entry.view.is_over]
            return next((view for view in reversed(views) if NOUNS[view.order.kind] == NOUNS[kind]), None)

    def view(self, owner: str, name: str) -> View | None:
        """An order as it is now; None if this owner has none of that name, or it was long ago."""
        with self._changed:
            entry = self._entries.get(name)
            return entry.view if entry is not None and entry.owner == owner else None

    def follow(self, owner: str, name: str) -> Iterator[View]:
        """An order at every change, and at least once a second, until it is over."""
        seen = -1
        while True:
            with self._changed:
                entry = self._entries.get(name)
                if entry is None or entry.owner != owner:
                    return
                self._changed.wait_for(lambda: entry.view.version > seen, timeout=1.0)  # noqa: B023
                view = entry.view
            seen = view.version
            yield view
            if view.is_over:
                return

    def cancel(self, owner: str, name: str) -> None:
        """End an order for its owner now, and the work on it within a slice; without such an order, do nothing."""
        with self._changed:
            entry = self._entries.get(name)
            if entry is None or entry.owner != owner or entry.view.is_over:
                return
            entry.stop.touch()
            if name in self._waiting:
                self._waiting.remove(name)
                self._count_ahead()
            self._set(entry, status="cancelled", ended=time.time(), preview=())

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return all(entry.view.is_over for entry in self._entries.values())

    def fidelity(self, receipt: streamline.Receipt) -> streamline.Fidelity | None:
        """How close a video is to the original's: as measured with it, or by a comparison of the same settings."""
        return receipt.fidelity or self._fidelities.get(_video_of(receipt))

    def _remember(self, receipt: streamline.Receipt) -> None:
        self._fidelities[_video_of(receipt)] = receipt.fidelity
        while len(self._fidelities) > FIDELITIES:
            self._fidelities.popitem(last=False)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                name = self._waiting.pop(0)
                entry = self._entries[name]
                self._set(entry, status="loading", ahead=0, began=time.time())
                self._count_ahead()
            entry.context.run(self._work_on, entry)

    def _work_on(self, entry: _Entry) -> None:
        ended = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(entry, ended), daemon=True)
        sampler.start()
        try:
            for event in self._make(entry.view.order, str(entry.stop)):
                self._apply(entry, event)
            if not entry.view.is_over:
                self._finish(entry)
        except Exception as error:
            self._apply(entry, Failed(words.failure(error)))
        finally:
            ended.set()
            entry.original = ()
            entry.stop.unlink(missing_ok=True)
            view = entry.view
            seconds = round(time.time() - view.began, 3)
            note(view.status, order=view.id, seconds=seconds, steps=len(view.steps), trouble=view.trouble)
            self._on_done()

    def _finish(self, entry: _Entry) -> None:
        view, run = entry.view, ""
        if view.order.kind == "compare" and all(view.results):
            original, streamlined = view.results
            fidelity = streamline.Fidelity.of(streamlined.frames, original.frames)
            receipts = (view.receipts[0], replace(view.receipts[1], fidelity=fidelity))
            self._set(entry, receipts=receipts)
            self._remember(receipts[1])
        if view.order.kind == "generate":
            self._set(entry, status="writing")
            try:
                run = self.gallery.add(entry.owner, view.order, view.results[0], view.receipts[0])
            except (OSError, streamline.InputError) as error:
                reason = getattr(error, "strerror", None) or str(error).rstrip(".")
                raise streamline.StreamlineError(f"The video was made but could not be kept: {reason}.") from error
            self._set(entry, results=(replace(view.results[0], frames=()),))  # the gallery has them
        self._set(entry, status="done", run=run, ended=time.time(), preview=())

    def _apply(self, entry: _Entry, event: Event) -> None:
        view = entry.view
        match event:
            case Loading():
                self._set(entry, status="loading")
            case Warming():
                self._set(entry, status="warming")
            case PartStarted(index=index, weights_bytes=weights):
                entry.part_began = time.monotonic()
                self._set(
                    entry, status="denoising", part=index, weights_bytes=weights, steps=(), samples=(), preview=()
                )
            case Stepped():
                sample = MemorySample(
                    time.monotonic() - entry.part_began, event.live_bytes, event.peak_bytes, _process_bytes()
                )
                self._set(
                    entry,
                    total_steps=event.total,
                    steps=(*view.steps, replace(event, preview=())),
                    samples=(*view.samples, sample),
                    preview=event.preview or view.preview,
                )
            case Decoding():
                self._set(entry, status="decoding")
            case PartDone(index=index, result=result, receipt=receipt):
                psnr = ()
                if view.order.kind == "sweep":
                    psnr, result = self._measure(entry, index, result), replace(result, frames=())
                self._set(
                    entry,
                    results=_with(view.results, index, result),
                    receipts=_with(view.receipts, index, receipt),
                    psnr=_with(view.psnr, index, psnr),
                )
            case Noted(sentence=sentence):
                self._set(entry, notes=(*view.notes, sentence))
            case Checking():
                self._set(entry, status="checking", preview=())
            case Checked(fidelity=fidelity):
                self._set(entry, receipts=(replace(view.receipts[0], fidelity=fidelity),))
            case Failed(sentence=sentence):
                self._set(entry, status="failed", trouble=sentence, ended=time.time(), preview=())

    def _measure(self, entry: _Entry, index: int, result: streamline.Result) -> tuple[float, ...]:
        """PSNR of a run of a sweep; of the original none, but it is kept for the runs that follow."""
        if entry.view.order.parts[index].plan is None:
            entry.original = result.frames
            return ()
        return streamline.psnr(result.frames, entry.original) if entry.original else ()

    def _sample(self, entry: _Entry, ended: threading.Event) -> None:
        """Memory between the events, so that the plot moves while a step takes long."""
        while not ended.wait(SAMPLE_SECONDS):
            with self._changed:
                view = entry.view
                if view.status in ("denoising", "decoding"):
                    last = (
                        view.samples[-1]
                        if view.samples
                        else MemorySample(0.0, view.weights_bytes, view.weights_bytes, 0)
                    )
                    seconds = time.monotonic() - entry.part_began
                    sample = replace(last, seconds=seconds, process_bytes=_process_bytes())
                    self._set(entry, samples=(*view.samples, sample))

    def _set(self, entry: _Entry, **changes: object) -> None:
        with self._changed:
            if entry.view.is_over:
                return
            entry.view = replace(entry.view, version=entry.view.version + 1, **changes)
            self._changed.notify_all()

    def _count_ahead(self) -> None:
        running = sum(not entry.view.is_over and name not in self._waiting for name, entry in self._entries.items())
        for place, name in enumerate(self._waiting):
            self._set(self._entries[name], ahead=place + running)

    def _forget(self) -> None:
        over = [name for name, entry in self._entries.items() if entry.view.is_over]
        for name in over[:-REMEMBERED]:
            del self._entries[name]


def _with(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


def _video_of(receipt: streamline.Receipt) -> tuple:
    """What a video depends on."""
    plan = None if receipt.plan is None else replace(receipt.plan, budget_bytes=None)
    return (receipt.source, receipt.job, plan, receipt.dtype, receipt.image)


def _process_bytes() -> int:
    return psutil.Process().memory_info().rss
