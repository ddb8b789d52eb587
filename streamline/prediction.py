"""What a run will take, stage by stage, before it is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from .errors import StreamlineError
from .plan import Plan

Tag = Literal["measured here", "calibrated", "modelled"]


@dataclass(frozen=True)
class StagePrediction:
    """One stage of the pipeline. Bytes are what this process holds on the device at the stage's worst moment.

    count: how often it runs. seconds: of all these times together.
    weights_bytes: of the networks on the device. activation_bytes: tensors, the pipeline's own among them.
    kept_bytes: features kept for later steps. workspace_bytes: what libraries take inside an operator, and the
    allocator's rounding. context_bytes: of the device's runtime. The peak is their sum.
    """

    name: str
    count: int
    seconds: float
    weights_bytes: int
    activation_bytes: int
    kept_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def peak_bytes(self) -> int:
        parts = (self.weights_bytes, self.activation_bytes, self.kept_bytes, self.workspace_bytes, self.context_bytes)
        return sum(parts)

    def to_dict(self) -> dict:
        return {**asdict(self), "peak_bytes": self.peak_bytes}


@dataclass(frozen=True)
class Prediction:
    """What a run takes.

    tag: "measured here" if this very run was made on this device before, "calibrated" if others were, else
        "modelled". memory_band, seconds_band: the share by which the truth may differ, either way.
    note: what to know when reading the figures, or "".
    """

    stages: tuple[StagePrediction, ...]
    tag: Tag
    memory_band: float
    seconds_band: float
    note: str = ""

    @property
    def peak_bytes(self) -> int:
        return max(stage.peak_bytes for stage in self.stages)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def stage(self, name: str) -> StagePrediction:
        """By name; raises KeyError."""
        return {stage.name: stage for stage in self.stages}[name]

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        return {
            "predicted_peak_bytes": self.peak_bytes,
            "predicted_seconds": self.seconds,
            "tag": self.tag,
            "memory_band": self.memory_band,
            "seconds_band": self.seconds_band,
            "note": self.note,
            "stages": [stage.to_dict() for stage in self.stages],
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> Prediction:
        """The inverse of `to_dict`."""
        stages = tuple(
            StagePrediction(**{name: value for name, value in stage.items() if name != "peak_bytes"})
            for stage in data["stages"]
        )
        names = ("tag", "memory_band", "seconds_band", "note")
        return cls(stages, **{name: data[name] for name in names})


@dataclass(frozen=True)
class Candidate:
    """A plan and what it takes."""

    plan: Plan
    prediction: Prediction


class BudgetError(StreamlineError):
    """No plan does a job within a budget.

    smallest: the plan that needs least, with its prediction. smallest_bytes: the smallest budget that would do.
    alternatives: jobs near it that fit, each with its prediction.
    """

    def __init__(self, sentence: str, smallest: Candidate, alternatives: tuple = ()) -> None:
        super().__init__(sentence)
        self.smallest = smallest
        self.alternatives = alternatives

    @property
    def smallest_bytes(self) -> int:
        return self.smallest.prediction.peak_bytes
