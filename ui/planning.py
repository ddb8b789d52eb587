"""Looking ahead: for what is asked, the plan, all others worth choosing, and what to change when nothing fits."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline

import streamline
from streamline import Forecast, Model, Source

from . import estimating, words, zero
from .estimating import Known, Target
from .models import Pipelines, Profile, entries, is_small
from .orders import QUALITIES, Order, Part, Settings

REMEMBERED = 16  # forecasts, of some 20 MB each where the model is large
CHECK_SECONDS = 6.0  # an original that takes no longer is made too, where the video is not the same
SPARE = 1.02  # of a budget that is proposed, over what is predicted


class _Key(NamedTuple):
    """What a forecast depends on; whose model is the same, others are estimated from."""

    model: tuple
    card: str
    quality: str
    is_guided: bool
    steps: int
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, settings: Settings) -> _Key:
        job = settings.job
        shape = (job.height, job.width, job.num_frames)
        model = (settings.model, settings.source)
        return cls(model, settings.card, settings.quality, job.is_guided, job.num_inference_steps, shape)

    def distance(self, other: _Key) -> float:
        """How far the shapes are from each other."""
        (height, width, frames), (other_height, other_width, other_frames) = self.shape, other.shape
        return abs(math.log(height * width / other_height / other_width)) + abs(math.log(frames / other_frames))

    def differences(self, other: _Key) -> int:
        """The fewer, the better an estimate."""
        return sum(one != two for one, two in zip(self[1:4], other[1:4], strict=True))


@dataclass(frozen=True)
class _RememberedForecast:
    """A forecast. is_outdated: a run since has shown how good predictions are.

    measured: the forecast as it was first, with all plans to choose from, which it is brought up to date from.
    """

    forecast: Forecast
    measured: Forecast
    is_outdated: bool = False

    @cached_property
    def known(self) -> Known:
        """What estimates need of it."""
        return estimating.known_of(self.forecast)


@dataclass(frozen=True)
class Remedy:
    """A change that makes a job fit, and what it is called on its button."""

    label: str
    changes: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of some settings.

    predictions: of the plans worth choosing, from the fastest to the smallest. original: of the untouched pipeline.
    least_bytes, most_bytes: of any budget that makes sense. prediction: of the one to be taken, None where nothing
    fits; trouble then says why, and remedies what to change. plan: None there too, and where nothing is known of the
    model but another job's figures. is_estimate: in proportion to another job, and shown until measured for this one.
    """

    settings: Settings
    device: streamline.Device
    predictions: tuple[streamline.Prediction, ...]
    least_bytes: int
    most_bytes: int
    original: streamline.Prediction
    plan: streamline.Plan | None = None
    prediction: streamline.Prediction | None = None
    trouble: str = ""
    remedies: tuple[Remedy, ...] = ()
    is_estimate: bool = False

    @property
    def budget_bytes(self) -> int:
        return self.settings.budget_bytes


class Planner:
    """Plans for the device that is here, or for an emulated card. Planning runs nothing and takes no GPU memory."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines
        self._lock = threading.Lock()  # held while something is measured, which takes seconds
        self._choosing = threading.RLock()
        self._remembered: OrderedDict[_Key, _RememberedForecast] = OrderedDict()
        self._runs = 0  # that were made

    def device(self, card: str) -> streamline.Device:
        """The device that is here now, or the emulated card; raises InputError for a card nobody knows."""
        return streamline.emulate(card)[0] if card else streamline.detect()

    def profile(self, source: Source, model: Model) -> Profile:
        """What a model makes; loads it if its files must be asked. Raises ModelError when it cannot be had."""
        is_known = model.configs is not None
        return Profile.of(model, None if is_known else self._pipelines.get(source, dtype_of(model.name, "")))

    def full_plan(self, settings: Settings) -> Outlook:
        """What is to be expected; a job that does not fit is an answer too. Raises StreamlineError for the rest."""
        return self._outlook(settings, self._forecast(settings), qualities=QUALITIES[1:])

    def quick_estimate(self, settings: Settings) -> Outlook | None:
        """The same at once: an estimate where the plan is not known yet, None where there is nothing to go by.

        Raises StreamlineError for a model that cannot be had.
        """
        kept = self._known(settings)
        if kept is not None:
            return self._outlook(settings, kept.forecast, qualities=())
        alike = self._alike(settings)
        if alike is not None:
            with self._choosing:
                forecast = alike.adapted(settings.job, settings.quality, self._card(settings))
            return replace(self._outlook(settings, forecast, qualities=()), is_estimate=True)
        target = self._target(settings)
        known = target and self._nearest(settings, target.device.kind)
        if known is None:
            return None
        predictions, original = estimating.estimate(known, target)
        settings = _with_budget(settings, target.device)
        least = predictions[-1].peak_bytes
        most = max(target.device.total_bytes, least)
        fitting = [one for one in predictions if one.peak_bytes <= settings.budget_bytes]
        outlook = Outlook(settings, target.device, predictions, least, most, original, is_estimate=True)
        if fitting:
            return replace(outlook, prediction=fitting[0])
        return replace(outlook, trouble=f"It seems not to fit: it needs about {words.size_up(least)} at least.")

    def known(self, settings: Settings) -> Known:
        """What estimates start from; see `full_plan` for errors."""
        self._forecast(settings)
        return self._remembered[_Key.of(settings)].known

    def forget(self) -> None:
        """Predict anew from now on, for a run has shown how good predictions are."""
        with self._choosing:
            self._runs += 1
            for key, kept in self._remembered.items():
                self._remembered[key] = replace(kept, is_outdated=True)

    def _outlook(self, settings: Settings, forecast: Forecast, qualities: tuple[str, ...]) -> Outlook:
        """qualities: to be proposed where nothing fits, if they do; looking into one takes a while."""
        device = self.device(settings.card)
        settings = _with_budget(settings, device)
        with self._choosing:
            predictions, original = tuple(one.prediction for one in forecast.candidates), forecast.original
        least = predictions[-1].peak_bytes
        most = max(device.total_bytes, least)
        outlook = Outlook(settings, device, predictions, least, most, original)
        try:
            with self._choosing:
                chosen = forecast.choose(settings.budget_bytes)
        except streamline.BudgetError as error:
            remedies = self._remedies(error, outlook, qualities)
            return replace(outlook, trouble=_shortfall(error, settings), remedies=remedies)
        return replace(outlook, plan=chosen.plan, prediction=chosen.prediction)

    def order(self, outlook: Outlook, image) -> Order:
        """The video of an outlook that fits; raises InputError for one that does not."""
        self._require(outlook)
        part = Part("streamlined", outlook.plan, outlook.prediction)
        return Order("generate", outlook.settings, (part,), image, self._check(outlook))

    def comparison(self, outlook: Outlook, image) -> Order:
        """The original and the streamlined run; the original is left out where the device cannot hold it."""
        self._require(outlook)
        room = self._room(outlook)
        original = self._original(outlook, room)
        streamlined = Part("streamlined", outlook.plan, outlook.prediction)
        return Order("compare", outlook.settings, (original, streamlined), image)

    def sweep(self, outlook: Outlook, qualities: list[str], points: int, image) -> Order:
        """A grid: for each quality budgets from the smallest that does to where more no longer helps."""
        room = self._room(outlook)
        parts = [self._original(outlook, room)]
        for quality in qualities:
            asked = replace(outlook.settings, quality=quality)
            candidates = self._forecast(asked).candidates
            for one in _spread([c for c in candidates if c.prediction.peak_bytes <= room], points):
                budget = int(one.prediction.peak_bytes * SPARE)
                plan = replace(one.plan, budget_bytes=budget)
                parts.append(Part(f"{quality}, {words.size_up(budget)}", plan, one.prediction))
        return Order("sweep", outlook.settings, tuple(parts), image)

    def _original(self, outlook: Outlook, room: int) -> Part:
        """The untouched run that others are compared with; capped as they are (work.py)."""
        capped = self._forecast(outlook.settings).original_capped
        return Part("original", None, capped, is_skipped=capped.peak_bytes > room)

    def _check(self, outlook: Outlook) -> streamline.Prediction | None:
        """The original, where a video is not the same, it fits, and it is not much to wait for."""
        original, room = outlook.original, self._room(outlook)
        is_cheap = original.seconds <= CHECK_SECONDS and original.peak_bytes <= room and not outlook.settings.card
        return original if is_cheap and not outlook.plan.is_exact else None

    def _require(self, outlook: Outlook) -> None:
        if outlook.plan is None:
            raise streamline.InputError(outlook.trouble)
        here = streamline.default_budget(self.device(""))
        if outlook.prediction.peak_bytes > here:
            needs = words.size_up(outlook.prediction.peak_bytes)
            raise streamline.InputError(
                f"This can be planned, but not made here: it needs {needs}, and {words.size(here)} are free."
            )

    def _room(self, outlook: Outlook) -> int:
        """What may be used: an emulated card may be larger than what is here."""
        return min(streamline.default_budget(outlook.device), streamline.default_budget(self.device("")))

    def _forecast(self, settings: Settings) -> Forecast:
        with self._lock:
            kept = self._known(settings)
            if kept is not None:
                return kept.forecast
            where, alike, runs = self._where(settings), self._alike(settings), self._runs
            model = self._model(settings)
            forecast = streamline.forecast(model, settings.job, settings.quality, where, known=alike)
            _ = forecast.candidates, forecast.original  # measured now
            self._keep(settings, _RememberedForecast(forecast, forecast, is_outdated=self._runs != runs))
            return forecast

    def _known(self, settings: Settings) -> _RememberedForecast | None:
        """The forecast of these settings. One that is outdated is brought up to date, for which nothing is measured."""
        with self._choosing:
            kept = self._remembered.get(_Key.of(settings))
            if kept is not None and kept.is_outdated:
                forecast = kept.measured.adapted(settings.job, settings.quality, self._card(settings))
                kept = self._keep(settings, _RememberedForecast(forecast, kept.measured))
            return kept

    def _keep(self, settings: Settings, kept: _RememberedForecast) -> _RememberedForecast:
        with self._choosing:
            self._remembered[_Key.of(settings)] = kept
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return kept

    def _alike(self, settings: Settings) -> Forecast | None:
        """The forecast of the same model that is nearest; one of the same shape is best."""
        wanted, kind, dtype = _Key.of(settings), self.device(settings.card).kind, self._dtype(settings)
        with self._choosing:
            found = [
                (key, kept.measured)
                for key, kept in self._remembered.items()
                if (key.model, key.is_guided) == (wanted.model, wanted.is_guided)
                and (kept.forecast.device.kind, kept.forecast.dtype) == (kind, dtype)
            ]
        nearest = min(found, key=lambda pair: (pair[0].shape != wanted.shape, pair[0].distance(wanted),
                                               pair[0].differences(wanted)), default=None)  # fmt: skip
        return None if nearest is None else nearest[1]

    def _card(self, settings: Settings) -> tuple[streamline.Device, streamline.Rates] | None:
        """The emulated card; None for the device that is here."""
        return streamline.emulate(settings.card) if settings.card else None

    def _nearest(self, settings: Settings, kind: str) -> Known | None:
        """The plans of the same model that an estimate starts from."""
        wanted = _Key.of(settings)
        with self._choosing:
            alike = [
                (key, kept) for key, kept in self._remembered.items()
                if key.model == wanted.model and kept.forecast.device.kind == kind
            ]  # fmt: skip
        if alike:
            _, nearest = min(alike, key=lambda pair: (pair[0].differences(wanted), pair[0].distance(wanted)))
            return nearest.known
        seeds = () if settings.source.parts else self._seeds.get(settings.model, ())
        return min(seeds, key=lambda one: one.kind != kind, default=None)

    def _target(self, settings: Settings) -> Target | None:
        """Where an estimate is for; None while nobody knows how fast this machine is."""
        dtype = self._dtype(settings)
        if settings.card:
            return Target(settings.job, dtype, *streamline.emulate(settings.card))
        with self._choosing:
            rates = next((kept.forecast.rates for key, kept in self._remembered.items() if not key.card), None)
        return rates and Target(settings.job, dtype, self.device(""), rates)

    @cached_property
    def _seeds(self) -> dict[str, list[Known]]:
        return estimating.seeds()

    def _model(self, settings: Settings) -> str | DiffusionPipeline:
        """What is planned: the name of a model whose shape is known, or one that must be loaded for it."""
        if entries()[settings.model].configs is not None and not settings.source.parts:
            return settings.model
        return self._pipelines.get(settings.source, self._dtype(settings))

    def _dtype(self, settings: Settings) -> torch.dtype:
        return dtype_of(settings.model, settings.card)

    def _where(self, settings: Settings):
        if settings.card:
            return streamline.emulate(settings.card)
        return zero.where() if zero.is_here() and device_name() != "cpu" else device_name()

    def _remedies(
        self, error: streamline.BudgetError, known: Outlook, qualities: tuple[str, ...]
    ) -> tuple[Remedy, ...]:
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
        for quality in qualities:
            if settings.quality == "exact" and self._fits(replace(settings, quality=quality)):
                found.append(Remedy(f"Use {quality} quality", (("quality", quality),)))
                break
        return tuple(found)

    def _fits(self, settings: Settings) -> bool:
        return self._forecast(settings).candidates[-1].prediction.peak_bytes <= settings.budget_bytes


def _with_budget(settings: Settings, device: streamline.Device) -> Settings:
    """What is free, where nobody has chosen a budget."""
    if settings.budget_bytes is not None:
        return settings
    return replace(settings, budget_bytes=max(1, streamline.default_budget(device)))


def device_name() -> str:
    """Where pipelines run here: torch's name for it."""
    device = streamline.detect()
    return f"{device.kind}:{device.index}" if device.kind == "cuda" else device.kind


def dtype_of(model: str, card: str) -> torch.dtype:
    """Of the weights: half precision on a GPU and for one that is emulated, except for the bundled models there."""
    is_gpu = device_name() != "cpu"
    return torch.float16 if is_gpu or (card and not is_small(model)) else torch.float32


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
