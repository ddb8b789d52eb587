"""Step Rehash (paper section 3.4) at work: the features that a step reuses, and when they are computed anew.

Nothing here makes the host wait for the device, but for a plan with a guard: that reads a single number which the
step before has left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..plan import SPARSE, Rehash
from ..program.executor import Call


@dataclass(frozen=True)
class CachedFeature:
    """What a full step leaves at the cache point.

    features: one for all samples, or one for each where they run one by one. sparse: every few pixels of them.
    timestep: as the network is told it, its own measure of the noise level.
    """

    features: list[Tensor]
    sparse: list[Tensor]
    timestep: Tensor

    @classmethod
    def of(cls, features: list[Tensor], timestep: Tensor | float, *, judged: bool) -> CachedFeature:
        sparse = [feature[..., ::SPARSE, ::SPARSE].clone() for feature in features] if judged else []
        return cls(features, sparse, torch.as_tensor(timestep, device=features[0].device))

    def by_sample(self, batch: int, frames: int) -> CachedFeature:
        """Return the same, sample by sample: a step may run so after one that ran them as one batch."""
        if len(self.features) == batch:
            return self

        def split(cached: list[Tensor]) -> list[Tensor]:
            return [part for batched in cached for part in batched.split(frames)]

        return replace(self, features=split(self.features), sparse=split(self.sparse))


class FeatureCache:
    """Runs the steps of a pipeline's denoisers by a rehash: in full, or from what the last full one left.

    A step that fails can be run again, with sequential guidance too. A new run starts anew.
    """

    def __init__(self, rehash: Rehash, current_run: Callable[[], object] | None = None) -> None:
        """current_run: returns an object that is another one in every run, like a scheduler's list of timesteps."""
        self._rehash = rehash
        self._current_run = current_run
        self._network: nn.Module | None = None
        self.forget()

    def forget(self) -> None:
        """Free what is cached; the next step is the first of a run."""
        self._step = 0
        self._run: object = None
        self._extent: tuple[int, int] | None = None
        self._now: CachedFeature | None = None
        self._before: CachedFeature | None = None
        self._judge: CachedFeature | None = None  # what is left of `_before` until a full step is done
        self._trust: Tensor | None = None
        self._guard = None if self._rehash.guard is None else _Guard(self._rehash.guard)

    def execute(self, call: Call, timestep: Tensor | float) -> Tensor:
        """Run one step, in full or from the cache. Raises PlanError for a cache point that is not there."""
        current = self._current_run() if self._current_run is not None else None
        if current is not self._run:
            self.forget()
            self._run = current
        program, sample = call.program, call.values["sample"]
        point = program.cache_point(self._rehash.cut)
        extent = (call.conditions.batch, call.conditions.frames)
        if call.sequential and extent == self._extent:
            self._now = self._now and self._now.by_sample(*extent)
            self._before = self._before and self._before.by_sample(*extent)

        if self._is_full(extent):
            output = self._renew(timestep, lambda features: call.run(replace(program, kept=point), features))
            self._extent = extent
            if self._guard is not None:
                self._guard.renew(sample)
        else:
            output = call.run(program.bind([point]), self._features(timestep), point)
            if self._guard is not None:
                self._guard.watch(sample)
        self._step += 1
        return output

    def serve(self, network: nn.Module) -> None:
        """Let the next step be one of this network: what another one cached is dropped, the steps count on."""
        if network is not self._network:
            self._network = network
            self._extent = self._now = self._before = self._judge = self._trust = None

    def _is_full(self, extent: tuple[int, int]) -> bool:
        """Return whether the next step computes everything: by the plan, by the guard, or for want of features."""
        if self._now is None or self._extent != extent or self._rehash.is_full(self._step):
            return True
        return self._guard is not None and self._guard.is_exceeded

    def _features(self, timestep: Tensor | float) -> list[Tensor]:
        """Return what a step at a timestep takes for the features it does not compute."""
        now, before = self._now, self._before
        if before is None:
            return now.features
        weight = _weight(before, now, timestep, self._rehash.extrapolation, self._trust)
        return [torch.lerp(a, b, weight.to(b.dtype)) for a, b in zip(before.features, now.features, strict=True)]

    def _renew(self, timestep: Tensor | float, compute: Callable[[list[Tensor]], Tensor]) -> Tensor:
        """Compute a full step, which adds to a list what is to be cached."""
        damping = self._rehash.extrapolation
        if self._before is not None:
            self._judge = replace(self._before, features=[])
            self._before = None
        if not damping:
            self._now = None  # what was cached is freed before the step, not after it
        features: list[Tensor] = []
        output = compute(features)
        cached = CachedFeature.of(features, timestep, judged=damping > 0)
        fits = self._now is not None and _shapes(self._now) == _shapes(cached)
        if fits and self._judge is not None:
            self._trust = _is_better(self._judge, self._now, cached, damping)
        self._judge = None
        self._before = self._now if fits else None
        self._now = cached
        return output


@dataclass(frozen=True)
class NetworkSteps:
    """The steps of one of a pipeline's denoisers: one never takes what another has cached."""

    cache: FeatureCache
    network: nn.Module

    def execute(self, call: Call, timestep: Tensor | float) -> Tensor:
        """Run one step, as `FeatureCache.execute`."""
        self.cache.serve(self.network)
        return self.cache.execute(call, timestep)

    def forget(self) -> None:
        """Free what is cached."""
        self.cache.forget()


def _shapes(cached: CachedFeature) -> list[torch.Size]:
    return [feature.shape for feature in cached.features]


def _weight(
    before: CachedFeature, now: CachedFeature, timestep: Tensor | float, damping: float, trust: Tensor | None
) -> Tensor:
    """Return where a timestep lies from `before` (0) to `now` (1), its part beyond that damped; on the device."""
    gap = now.timestep - before.timestep
    beyond = torch.where(gap == 0, 0.0, damping * (timestep - now.timestep) / gap)
    return 1 + (beyond if trust is None else beyond * trust)


def _is_better(before: CachedFeature, now: CachedFeature, cached: CachedFeature, damping: float) -> Tensor:
    """Return 1 where extrapolation would have come nearer to a full step than plain reuse, else 0; on the device."""
    weight = _weight(before, now, cached.timestep, damping, None)
    plain, moved = torch.zeros_like(weight, dtype=torch.float32), torch.zeros_like(weight, dtype=torch.float32)
    for a, b, truth in zip(before.sparse, now.sparse, cached.sparse, strict=True):
        a, b, truth = a.float(), b.float(), truth.float()
        plain += (truth - b).square().sum()
        moved += (truth - torch.lerp(a, b, weight.float())).square().sum()
    return (moved <= plain).float()


class _Guard:
    """Watches how far the latents have moved since the last full step; a step is judged by the one before it."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._reference: Tensor | None = None
        self._change: Tensor | None = None
        self._is_copied: torch.cuda.Event | None = None

    def renew(self, sample: Tensor) -> None:
        """Start from these latents, from which a full step was computed."""
        self._reference, self._change = sample.clone(), None

    def watch(self, sample: Tensor) -> None:
        """Measure how far these latents, from which a step was computed, are from those of the last full one."""
        change = (sample - self._reference).norm() / self._reference.norm()
        if not change.is_cuda:
            self._change = change
            return
        self._change = torch.empty((), dtype=change.dtype, pin_memory=True)
        self._change.copy_(change, non_blocking=True)
        self._is_copied = torch.cuda.Event()
        self._is_copied.record(torch.cuda.current_stream(self._reference.device))

    @property
    def is_exceeded(self) -> bool:
        if self._is_copied is not None:
            self._is_copied.synchronize()  # with the step before, not with what was launched since
        return self._change is not None and float(self._change) > self._limit
