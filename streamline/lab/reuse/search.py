"""The best full steps for every number of them, by dynamic programming over effects that add up.

A path goes from full step to full step; what its reused steps do to the final latents is a sum of vectors, one vector
for each sample, and its error is the length of the sum in the worst sample. Lengths of sums are no sums of lengths, so
that the best path to a step need not begin with the best path to one before: at every step a beam of paths is kept for
every number of full steps so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .measuring import OLDEST, Effects, Reuse

BEAM = 24
# Each vector is known but for this share of its length, in a direction of its own: what is not known does not cancel.
UNCERTAINTY = 0.5
DAMPINGS = (0.0, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Path:
    """Full steps of a run, and the error they are expected to lead to in the worst sample."""

    cut: str
    full_steps: tuple[int, ...]
    extrapolation: float
    error: float


@dataclass(frozen=True)
class _Reached:
    """A path as far as one step.

    total: sum of the effects so far, (samples, dimensions). spread: squared length of what is unknown of them, by
    sample. error: in the worst sample.
    """

    error: float
    full_steps: tuple[int, ...]
    total: np.ndarray
    spread: np.ndarray


def best_paths(
    effects: Effects, cut: str, extrapolation: float, beam: int = BEAM, uncertainty: float = UNCERTAINTY
) -> dict[int, Path]:
    """Return for every number of full steps the path with the least error that was found."""
    steps = effects.steps
    some = next(iter(effects.of.values()))
    nothing = np.zeros(some.shape, dtype=np.float32)
    reached: list[dict[int, list[_Reached]]] = [{} for _ in range(steps)]
    reached[0][1] = [_Reached(0.0, (0,), nothing, np.zeros(len(nothing)))]
    for step in range(1, steps):
        found: dict[int, list[_Reached]] = {}
        for source in range(max(0, step - OLDEST - 1), step):
            reused = [_effect(effects, cut, source, one, extrapolation) for one in range(source + 1, step)]
            edge = nothing + sum(reused)
            unknown = sum(np.square(one).sum(axis=1) for one in reused) * uncertainty**2
            for count, paths in reached[source].items():
                for path in paths:
                    total, spread = path.total + edge, path.spread + unknown
                    error = float(np.sqrt((np.square(total).sum(axis=1) + spread).max()))
                    found.setdefault(count + 1, []).append(_Reached(error, (*path.full_steps, step), total, spread))
        reached[step] = {
            count: sorted(paths, key=lambda path: (path.error, path.full_steps))[:beam]
            for count, paths in found.items()
        }
    return {
        count: Path(cut, paths[0].full_steps, extrapolation, paths[0].error)
        for count, paths in sorted(reached[-1].items())
    }


def join(parts: Sequence[Effects]) -> Effects:
    """Join effects measured on several batches, sample by sample; coordinates differ, lengths of sums do not."""
    return Effects(parts[0].steps, {key: torch.cat([part.of[key] for part in parts]) for key in parts[0].of})


def _effect(effects: Effects, cut: str, source: int, step: int, extrapolation: float) -> np.ndarray:
    plain = effects.of[step, Reuse(cut, source, False)].numpy()
    moved = effects.of.get((step, Reuse(cut, source, True)))
    if moved is None or not extrapolation:
        return plain
    return plain + extrapolation * (moved.numpy() - plain)
