"""What the calibrations in this repository found, as tables for README."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ...planning.calibrations import SHIPPED, Calibration, Option
from .render import NOTHING, as_markdown

FRACTIONS = (0.5, 0.6, 0.8, 0.95)  # of the time that all steps take in full


def calibrated(folder: Path = SHIPPED) -> str:
    """Two tables of all calibrations in a folder: what is lost in less time, and what a step that reuses takes.

    Raises PlanError for a file that is no calibration.
    """
    found = [Calibration.load(path) for path in sorted(folder.glob("*.json"))]
    return f"{as_markdown(list(_losses(found)))}\n\n{as_markdown(list(_costs(found)))}"


def _losses(found: Iterable[Calibration]) -> Iterator[tuple[str, ...]]:
    yield "model, samples", "time of the steps, at most", "reused", "error", "without reuse", "error"
    for one in found:
        for fraction in FRACTIONS:
            fitting = [option for option in one.options if _time(one, option) <= fraction]
            reusing = [option for option in fitting if option.rehash is not None]
            others = [option for option in fitting if option.rehash is None]
            yield f"{one.model}, {one.samples}", f"{fraction:.0%}", *_best(reusing), *_best(others)


def _time(found: Calibration, option: Option) -> float:
    """An option's share of the time of all steps in full, by what its steps were measured to take."""
    if option.rehash is None:
        return (option.sampler.steps if option.sampler else found.steps) / found.steps
    full = len(option.rehash.full_steps)
    measured = {cost.cut: cost.measured for cost in found.costs}[option.rehash.cut]
    return (full + (found.steps - full) * measured) / found.steps


def _best(options: Iterable[Option]) -> tuple[str, str]:
    best = min(options, key=lambda option: option.error, default=None)
    return (NOTHING, NOTHING) if best is None else (best.label, f"{best.error:.1%}")


def _costs(found: Iterable[Calibration]) -> Iterator[tuple[str, ...]]:
    yield "model", "cut", "a step that reuses, of a full one: predicted", "measured"
    for one in found:
        for cost in one.costs:
            yield one.model, cost.cut, f"{cost.predicted:.0%}", f"{cost.measured:.0%}"
