"""Looking ahead: for what is asked, the plan, all others worth choosing, and what to change when nothing fits."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

import torch

import streamline

from . import words
from .models import Entry, Pipelines, Profile, Source, entries
from .orders import QUALITIES, Order, Part, Settings

REMEMBERED = 64  # situations
SPARE = 1.02  # of a budget that is proposed, over what is predicted


@dataclass(frozen=True)
class Remedy:
    """A change that makes a job fit, and what it is called on its button."""

    label: str
    changes: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of some settings.

    plan, prediction: None where nothing fits; trouble then says why, and remedies what to change.
    candidates: from the fastest to the smallest. least_bytes, most_bytes: of any budget that makes sense.
    original_bytes: what the untouched pipeline would need, about.
    """

    settings: Settings
    device: streamline.Device
    candidates: tuple[streamline.Candidate, ...]
    least_bytes: int
    most_bytes: int
    original: streamline.Prediction
    plan: streamline.Plan | None = None
    prediction: streamline.Prediction | None = None
    trouble: str = ""
    remedies: tuple[Remedy, ...] = ()

    @property
    def budget_bytes(self) -> int:
        return self.settings.budget_bytes


class Planner:
    """Plans for the device that is here, or for an emulated card. Planning runs nothing and takes no GPU memory."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple, tuple] = OrderedDict()

    def device(self, card: str) -> streamline.Device:
        """The device that is here now, or the emulated card; raises InputError for a card nobody knows."""
        return streamline.emulate(card)[0] if card else streamline.detect()

    def profile(self, source: Source, entry: Entry) -> Profile:
        """What a model makes; loads it if its files must be asked. Raises ModelError when it cannot be had."""
        if entry.planned_as is not None:
            return Profile(entry.task, streamline.Job.from_dict(dict(entry.defaults)))
        pipe = self._pipelines.get(source, dtype_of(entry.name, ""))
        is_image = "image" in inspect.signature(type(pipe).__call__).parameters
        return Profile("image-to-video" if is_image else "text-to-video", streamline.Job.for_model(pipe))

    def outlook(self, settings: Settings) -> Outlook:
        """What is to be expected; a job that does not fit is an answer too. Raises StreamlineError for the rest."""
        with self._lock:
            device = self.device(settings.card)
            candidates, original = self._candidates(settings)
            least = candidates[-1].prediction.peak_bytes
            most = max(device.total_bytes, least)
            if settings.budget_bytes is None:
                settings = replace(settings, budget_bytes=max(1, streamline.default_budget(device)))
            known = Outlook(settings, device, candidates, least, most, original)
            try:
                plan = self._tune(settings, settings.budget_bytes)
            except streamline.BudgetError as error:
                return replace(known, trouble=_shortfall(error, settings), remedies=self._remedies(error, known))
            alike = (one.prediction for one in candidates if one.plan == replace(plan, budget_bytes=None))
            prediction = next(alike, None) or self._predict(settings, plan)
            return replace(known, plan=plan, prediction=prediction)

    def forget(self) -> None:
        """Predict anew from now on, for a run has shown how good predictions are."""
        with self._lock:
            self._known.clear()

    def order(self, outlook: Outlook, image) -> Order:
        """The video of an outlook that fits; raises InputError for one that does not."""
        self._require(outlook)
        part = Part("streamlined", outlook.plan, outlook.prediction)
        return Order("generate", outlook.settings, (part,), image)

    def comparison(self, outlook: Outlook, image) -> Order:
        """The original and the streamlined run; the original is left out where the device cannot hold it."""
        self._require(outlook)
        room = streamline.default_budget(outlook.device)
        original = Part("original", None, outlook.original, is_skipped=outlook.original.peak_bytes > room)
        streamlined = Part("streamlined", outlook.plan, outlook.prediction)
        return Order("compare", outlook.settings, (original, streamlined), image)

    def sweep(self, outlook: Outlook, qualities: list[str], points: int, image) -> Order:
        """A grid: for each quality budgets from the smallest that does to where more no longer helps."""
        room = streamline.default_budget(outlook.device)
        parts = [Part("original", None, outlook.original, is_skipped=outlook.original.peak_bytes > room)]
        for quality in qualities:
            asked = replace(outlook.settings, quality=quality)
            with self._lock:
                candidates, _ = self._candidates(asked)
                for one in _spread([c for c in candidates if c.prediction.peak_bytes <= room], points):
                    budget = int(one.prediction.peak_bytes * SPARE)
                    plan = replace(one.plan, budget_bytes=budget)
                    parts.append(Part(f"{quality}, {words.size_up(budget)}", plan, one.prediction))
        return Order("sweep", outlook.settings, tuple(parts), image)

    def _require(self, outlook: Outlook) -> None:
        if outlook.plan is None:
            raise streamline.InputError(outlook.trouble)

    def _candidates(self, settings: Settings) -> tuple[tuple[streamline.Candidate, ...], streamline.Prediction]:
        job = settings.job
        shape = (job.height, job.width, job.num_frames, job.num_inference_steps, job.guidance_scale)
        key = (settings.model, settings.source, shape, settings.quality, settings.card)
        if key not in self._known:
            model, where = self._model(settings), self._where(settings)
            self._known[key] = (
                streamline.frontier(model, job, settings.quality, where),
                self._predict(settings, streamline.Plan()),
            )
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[key]

    def _tune(self, settings: Settings, budget: int) -> streamline.Plan:
        return streamline.tune(self._model(settings), settings.job, budget, settings.quality, self._where(settings))

    def _predict(self, settings: Settings, plan: streamline.Plan) -> streamline.Prediction:
        return streamline.predict(self._model(settings), settings.job, plan, self._where(settings))

    def _model(self, settings: Settings):
        entry = entries()[settings.model]
        if entry.planned_as is not None and not settings.source.base and not settings.source.motion_adapter:
            return entry.planned_as
        return self._pipelines.get(settings.source, dtype_of(settings.model, settings.card))

    def _where(self, settings: Settings):
        return streamline.emulate(settings.card) if settings.card else device_name()

    def _remedies(self, error: streamline.BudgetError, known: Outlook) -> tuple[Remedy, ...]:
        settings, found = known.settings, []
        for job, prediction in error.alternatives:
            needs = words.size_up(prediction.peak_bytes)
            if job.num_frames != settings.job.num_frames:
                found.append(Remedy(f"Make {job.num_frames} frames ({needs})", (("frames", job.num_frames),)))
            else:
                sides = (("width", job.width), ("height", job.height))
                found.append(Remedy(f"Make it {job.width} × {job.height} ({needs})", sides))
        if error.smallest_bytes <= streamline.default_budget(known.device):
            budget = int(error.smallest_bytes * SPARE)
            found.append(Remedy(f"Allow {words.size_up(budget)} of memory", (("budget", budget),)))
        for quality in QUALITIES[1:]:
            if settings.quality == "exact" and self._fits(replace(settings, quality=quality)):
                found.append(Remedy(f"Use {quality} quality", (("quality", quality),)))
                break
        return tuple(found)

    def _fits(self, settings: Settings) -> bool:
        candidates, _ = self._candidates(settings)
        return candidates[-1].prediction.peak_bytes <= settings.budget_bytes


def device_name() -> str:
    """Where pipelines run here: torch's name for it."""
    device = streamline.detect()
    return f"{device.kind}:{device.index}" if device.kind == "cuda" else device.kind


def dtype_of(model: str, card: str) -> torch.dtype:
    """Of the weights: half precision on a GPU and for one that is emulated, except for the bundled models there."""
    is_gpu = device_name() != "cpu"
    is_bundled = model.startswith("tiny-")
    return torch.float16 if is_gpu or (card and not is_bundled) else torch.float32


def _shortfall(error: streamline.BudgetError, settings: Settings) -> str:
    prediction = error.smallest.prediction
    worst = max(prediction.stages, key=lambda stage: stage.peak_bytes)
    missing = error.smallest_bytes - settings.budget_bytes
    return (
        f"This does not fit. Even in the smallest pieces, the stage “{worst.name}” needs "
        f"{words.size_up(worst.peak_bytes)}: {words.size_up(missing)} more than the budget of "
        f"{words.size(settings.budget_bytes)}."
    )


def _spread(candidates: list, points: int) -> list:
    """Some of them, evenly over the list, both ends included."""
    if len(candidates) <= points or points < 2:
        return candidates[-points:]
    return [candidates[round(index * (len(candidates) - 1) / (points - 1))] for index in range(points)]
