"""What runs on this machine have taught: predictions kept beside what was measured, to correct the next ones.

An observation is kept of every run whose cost was known beforehand. Rates give seconds of computing and seconds of
launching operators; each has a factor, fitted to the observations of the same device, type and stage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ..cache import cache_folder, read_json, write_json
from ..hardware.device import Device
from ..job import Job
from ..plan import Plan

KEPT = 64  # observations of one stage, the latest
ENOUGH = 3  # observations to fit two factors to
MOST_MEMORY_FACTOR = 2.0  # more is no correction any more


@dataclass(frozen=True)
class Observation:
    """One stage of one run: seconds by the rates alone, and as measured.

    model: names the model. run: names model, job and plan.
    """

    model: str
    run: str
    stage: str
    computing: float
    launching: float
    measured: float


@dataclass(frozen=True)
class Correction:
    """Factors on predictions.

    seconds_factors: (stage, factor on computing, factor on launching). memory: factor on activations.
    runs: that it comes from.
    """

    seconds_factors: tuple[tuple[str, float, float], ...] = ()
    memory: float = 1.0
    runs: frozenset[str] = frozenset()
    subject: str = ""

    @property
    def tag(self) -> str:
        learnt = {stage for stage, *_ in self.seconds_factors}
        return "calibrated" if {"denoise", "decode"} <= learnt else "modelled"

    def exact(self, plan: Plan) -> bool:
        """Return whether this very run was made here before, and its stages are known."""
        return self.tag == "calibrated" and run_key(self.subject, plan) in self.runs

    def seconds(self, stage: str, computing: float, launching: float, *, overlap: bool) -> float:
        factors = {name: (a, b) for name, a, b in self.seconds_factors}
        a, b = factors.get(stage, (1.0, 1.0))
        return max(a * computing, b * launching) if overlap else a * computing + b * launching


NO_CORRECTION = Correction()


def model_key(description: str) -> str:
    """Return a name for a model."""
    return hashlib.sha256(description.encode()).hexdigest()[:16]


def subject_key(description: str, job: Job) -> str:
    """Return a name for a model and a job: of the job, what its cost depends on."""
    size = [job.height, job.width, job.num_frames, job.num_inference_steps, job.guidance_scale]
    return hashlib.sha256(json.dumps([description, size]).encode()).hexdigest()[:16]


def run_key(subject: str, plan: Plan) -> str:
    """Return a name for a run: subject says model and job; of the plan, what it does and not why."""
    fields = {name: value for name, value in plan.to_dict().items() if name not in ("reasons", "budget_bytes")}
    return hashlib.sha256(json.dumps([subject, fields], sort_keys=True).encode()).hexdigest()[:16]


class Experience:
    """The observations of one device and type, on disk."""

    def __init__(self, device: Device, dtype: torch.dtype, folder: Path | None = None) -> None:
        """folder: by default the one of `cache_folder`."""
        key = [device.name, device.kind, device.version, torch.__version__, str(dtype)]
        key += [torch.get_num_threads()] if device.kind == "cpu" else []
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        self._path = (folder or cache_folder()) / f"experience-{digest}.json"

    def record(self, observations: Sequence[Observation], memory: float | None = None) -> None:
        """Add what a run took. memory: activations at the peak, measured to predicted."""
        data = self._read()
        new = {(one.run, one.stage) for one in observations}
        kept = [one for one in data["observations"] if (one["run"], one["stage"]) not in new]
        data["observations"] = (kept + [asdict(one) for one in observations])[-8 * KEPT :]
        data["memory"] = (data["memory"] + [memory] * (memory is not None))[-KEPT:]
        write_json(self._path, data)

    def correction(self, model: str = "", subject: str = "") -> Correction:
        """Return factors for a model, from its own observations if they are enough; of a device without any, none.

        subject: model and job to be predicted, so that a run made before is recognised.
        """
        data = self._read()
        observations = [Observation(**one) for one in data["observations"]]
        factors = []
        for stage in sorted({one.stage for one in observations}):
            known = [one for one in observations if one.stage == stage]
            own = [one for one in known if one.model == model]
            factors.append((stage, *_fit((own if len(own) >= ENOUGH else known)[-KEPT:])))
        # Memory that was predicted too high is no reason to plan for less.
        memory = min(MOST_MEMORY_FACTOR, max([1.0, *data["memory"]]))
        return Correction(tuple(factors), memory, frozenset(one.run for one in observations), subject)

    def _read(self) -> dict:
        """What is kept; what another version wrote in another form is forgotten."""
        data = read_json(self._path) or {}
        known = {field.name for field in fields(Observation)}
        observations = data.get("observations", [])
        fits = isinstance(observations, list) and all(isinstance(o, dict) and set(o) == known for o in observations)
        memory = data.get("memory", [])
        fits = fits and isinstance(memory, list) and all(isinstance(one, int | float) for one in memory)
        return {"observations": observations, "memory": memory} if fits else {"observations": [], "memory": []}


def _fit(observations: Sequence[Observation]) -> tuple[float, float]:
    """Factors a, b >= 0 that make a * computing + b * launching nearest to what was measured, in relative terms."""
    rows = np.array([[one.computing / one.measured, one.launching / one.measured] for one in observations])
    common = float(rows.sum(axis=1).sum() / (rows.sum(axis=1) ** 2).sum())
    if len(observations) < ENOUGH:
        return common, common
    factors = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
    if (factors >= 0).all():
        return float(factors[0]), float(factors[1])
    alone = [(row @ np.ones(len(row))) / max(row @ row, 1e-30) for row in rows.T]
    errors = [((rows[:, i] * factor - 1) ** 2).sum() for i, factor in enumerate(alone)]
    return (float(alone[0]), 0.0) if errors[0] <= errors[1] else (0.0, float(alone[1]))
