"""When steps are computed in full, as policies behind one small interface.

A policy is asked for a run of so many steps and answers with a Rehash for its plan, or None where every step is to be
computed. The first and the last step are always full; few steps are left alone, for each of them does too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..errors import InputError
from ..plan import Rehash

FEW_STEPS = 8  # up to so many steps, as of distilled models, nothing is reused
DEFAULT_CUT = "last-layer"


class RehashPolicy(Protocol):
    """When steps reuse what."""

    def rehash(self, steps: int) -> Rehash | None:
        """Return the rehash for a run of so many steps; None if all of them are to be computed in full."""


@dataclass(frozen=True)
class Uniform:
    """Of so many steps one is computed in full, evenly spaced: 2 makes 13 of 25."""

    every: int
    cut: str = DEFAULT_CUT
    extrapolation: float = 0.0

    def rehash(self, steps: int) -> Rehash | None:
        return _rehash(range(0, steps, self.every), steps, Rehash((0,), self.cut, self.extrapolation))

    @classmethod
    def of(cls, steps: int, full: int, cut: str = DEFAULT_CUT) -> Fixed:
        """So many full steps, spaced as evenly as whole numbers allow."""
        if not 2 <= full <= steps:
            raise InputError(f"Of {steps} steps, from 2 to {steps} can be computed in full, not {full}.")
        return Fixed(tuple(int(step) for step in np.linspace(0, steps - 1, full).round()), cut)


@dataclass(frozen=True)
class Fixed:
    """Full steps that are given, as a calibration found them, for the number of steps they were found for."""

    full_steps: tuple[int, ...]
    cut: str = DEFAULT_CUT
    extrapolation: float = 0.0

    def rehash(self, steps: int) -> Rehash | None:
        return _rehash(self.full_steps, steps, Rehash((0,), self.cut, self.extrapolation))


@dataclass(frozen=True)
class Paper:
    """The paper's Algorithm 1: a step reuses while its feature is still like that of the last full one.

    similarity: steps x steps, of the kept feature between any two steps, averaged over samples. threshold: the least
    similarity that is alike enough. start, end: the first and the last steps that are full in any case.
    """

    similarity: Sequence[Sequence[float]]
    threshold: float
    cut: str = "paper"
    start: int = 1
    end: int = 1

    def rehash(self, steps: int) -> Rehash | None:
        if len(self.similarity) != steps:
            raise InputError(f"The similarity map is of {len(self.similarity)} steps, not of {steps}.")
        full = {*range(self.start), *range(steps - self.end, steps)}
        last = self.start - 1
        for step in range(self.start, steps - self.end):
            if self.similarity[step][last] < self.threshold:
                full.add(step)
                last = step
        return _rehash(full, steps, Rehash((0,), self.cut))

    @classmethod
    def of(cls, similarity: Sequence[Sequence[float]], full: int, cut: str = "paper") -> Paper:
        """Return the policy with the highest threshold that computes no more than so many steps in full.

        Where no threshold meets the number exactly, the one that comes nearest from below.
        """
        steps = len(similarity)
        known = sorted({value for row in similarity for value in row}, reverse=True)
        for threshold in known:
            policy = cls(similarity, threshold, cut)
            found = policy.rehash(steps)
            if found is not None and found.count_full(steps) <= full:
                return policy
        return cls(similarity, known[-1], cut)


def _rehash(full: Sequence[int] | set[int], steps: int, like: Rehash) -> Rehash | None:
    """With the first and the last step among the full ones; None where nothing is left to reuse."""
    full_steps = {0, *(step for step in full if step < steps), steps - 1}
    if steps <= FEW_STEPS or len(full_steps) == steps:
        return None
    return replace(like, full_steps=tuple(full_steps))
