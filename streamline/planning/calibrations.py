"""Calibrations: what was measured of a model's ways to be faster, as small JSON files, and how one is found again.

Some come with the models in this repository (assets/rehash); those made here are kept in the cache and go first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diffusers import DiffusionPipeline

from ..cache import cache_folder, read_json, write_json
from ..errors import PlanError
from ..families.naming import name_of, scheduler_key
from ..job import Job
from ..plan import Plan, Rehash
from ..sampler import Sampler

SHIPPED = Path(__file__).parents[2] / "assets" / "rehash"


@dataclass(frozen=True)
class Option:
    """One way to be faster, and how far it was measured to lead from the original's result.

    rehash, sampler: of a plan; without both, it is the original. error: of the final latents, relative to their norm,
    in the worst of the calibration's samples; mean: on average.
    """

    rehash: Rehash | None
    sampler: Sampler | None
    error: float
    mean: float

    @property
    def label(self) -> str:
        """In a few words."""
        if self.sampler is not None:
            return f"{self.sampler.steps} steps" + ("" if self.sampler.sigmas is None else ", Align Your Steps")
        if self.rehash is None:
            return "original"
        moved = f", extrapolated by {self.rehash.extrapolation:g}" if self.rehash.extrapolation else ""
        return f"{self.rehash.cut}, {len(self.rehash.full_steps)} full{moved}"

    def plan(self, plan: Plan) -> Plan:
        """Return a plan that is faster in this way."""
        return replace(plan, rehash=self.rehash, sampler=self.sampler)


@dataclass(frozen=True)
class StepCost:
    """What a step that reuses at a cut takes of the time of a full one, predicted and measured while calibrating."""

    cut: str
    predicted: float
    measured: float


@dataclass(frozen=True)
class Calibration:
    """What was measured of one model under one scheduler at one number of steps.

    options: every way that was run. similarity: steps x steps, of the feature at the paper's cut between any two
    steps, averaged over samples. samples: how many there were, each with its own seed. costs: of steps that reuse.
    """

    model: str
    scheduler: str
    steps: int
    samples: int
    options: tuple[Option, ...]
    similarity: tuple[tuple[float, ...], ...]
    costs: tuple[StepCost, ...] = ()

    def best(self, full: int, cut: str | None = None) -> Option:
        """Return the reuse with the least error among those with at most so many full steps, of one cut or of all.

        Raises PlanError when there is none.
        """
        known = [
            one
            for one in self.options
            if one.rehash is not None and len(one.rehash.full_steps) <= full and cut in (None, one.rehash.cut)
        ]
        if not known:
            raise PlanError(f"No reuse with {full} full steps was calibrated.")
        return min(known, key=lambda one: one.error)

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        options = [
            {
                "rehash": one.rehash and asdict(one.rehash),
                "sampler": one.sampler and one.sampler.to_dict(),
                "error": one.error,
                "mean": one.mean,
            }
            for one in self.options
        ]
        return {**asdict(self), "options": options}

    @classmethod
    def from_dict(cls, data: Mapping) -> Calibration:
        """Return the inverse of `to_dict`; raises PlanError for anything else."""
        try:
            options = tuple(
                Option(
                    one["rehash"] and Rehash(**one["rehash"]),
                    one["sampler"] and Sampler(**one["sampler"]),
                    float(one["error"]),
                    float(one["mean"]),
                )
                for one in data["options"]
            )
            similarity = tuple(tuple(float(value) for value in row) for row in data["similarity"])
            steps, samples = int(data["steps"]), int(data["samples"])
            costs = tuple(StepCost(**one) for one in data["costs"])
            return cls(str(data["model"]), str(data["scheduler"]), steps, samples, options, similarity, costs)
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"This is no calibration: {error}.") from error

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file that `keep` wrote; raises PlanError for anything else."""
        data = read_json(path)
        if data is None:
            raise PlanError(f"{path.name} holds no JSON.")
        return cls.from_dict(data)


def file_name(model: str, scheduler: str, steps: int) -> str:
    kind = scheduler.split()[0].removesuffix("Scheduler").lower()
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{model}-{kind}-{steps}.json")


def calibration_of(pipe: DiffusionPipeline, job: Job) -> Calibration | None:
    """Return the calibration of a loaded model for a job's number of steps; None where there is none."""
    return find_calibration(name_of(pipe), scheduler_key(pipe.scheduler), job.num_inference_steps)


def find_calibration(model: str, scheduler: str, steps: int) -> Calibration | None:
    """Return what was measured under just these;
    a file that cannot be read, or is of something else, is passed over."""
    for folder in (cache_folder() / "rehash", SHIPPED):
        data = read_json(folder / file_name(model, scheduler, steps))
        if data is None:
            continue
        try:
            found = Calibration.from_dict(data)
        except PlanError:
            continue
        if (found.model, found.scheduler, found.steps) == (model, scheduler, steps):
            return found
    return None


def keep(calibration: Calibration, folder: Path | None = None) -> Path:
    """Write a calibration to where `calibration_of` looks, or to a folder; returns the file."""
    folder = folder or cache_folder() / "rehash"
    path = folder / file_name(calibration.model, calibration.scheduler, calibration.steps)
    write_json(path, json.loads(json.dumps(calibration.to_dict())), indent=2)
    return path
