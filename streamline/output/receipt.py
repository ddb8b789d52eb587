"""A receipt: what made a video, on what, and what it took; enough to make it again.

It travels inside the video, so it is written for strangers: a model is named, never located, and of a folder or of an
input picture there is only a digest, by which whoever has it can tell it again. Read from a stranger's file, it is
data: every field is checked, and none is ever run.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from diffusers import DiffusionPipeline
from PIL import Image

from ..errors import InputError, StreamlineError, quoted
from ..families.naming import all_halves, model_of, models
from ..families.networks import denoisers_of
from ..hardware.detection import detect
from ..job import Job
from ..pictures import fit_to
from ..plan import Plan
from ..planning.speeding import QUALITIES, Quality
from ..prediction import Prediction
from ..program.casting import FLOAT8_NAME, storage_of
from ..running.events import Result
from ..source import Source, source_of
from ..store.fingerprint import fingerprint
from .metrics import WINDOW, largest_difference, psnr, ssim

FORMAT = 1
LARGEST_BYTES = 1 << 20  # of a receipt as JSON; one of a thousand steps has 30 thousand
LARGEST_NUMBER = 2**63
PACKAGES = ("torch", "diffusers", "transformers")
Method = Literal["streamlined", "original", "naive"]
NAME = re.compile(r"[^\W_][\w.+ -]{0,95}(/[^\W_][\w.+ -]{0,95})?")  # a name, or a hub id
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fidelity:
    """How near a video is to the original pipeline's, as measured.

    largest_difference: of any channel of any pixel, of 255. psnr: in decibels, of all frames together; infinite for
    equal videos. ssim: mean over frames; None where they are too small for it.
    """

    largest_difference: int
    psnr: float
    ssim: float | None

    @classmethod
    def of(cls, frames: Sequence[Image.Image], originals: Sequence[Image.Image]) -> Fidelity:
        """Measured on the frames of two videos; raises InputError for different lengths or sizes."""
        errors = statistics.fmean(10 ** (-value / 10) for value in psnr(frames, originals))
        is_small = min(frames[0].size) < WINDOW
        return cls(
            largest_difference=largest_difference(frames, originals),
            psnr=-10 * math.log10(errors) if errors else math.inf,
            ssim=None if is_small else statistics.fmean(ssim(frames, originals)),
        )


@dataclass(frozen=True)
class Predicted:
    """What a run was predicted to take, at its worst moment and in all."""

    peak_bytes: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What a run took, as in a `Result`."""

    peak_bytes: int
    weights_bytes: int
    seconds: float
    step_seconds: tuple[float, ...]
    decode_seconds: float


@dataclass(frozen=True)
class Receipt:
    """One video.

    model: its name, hub id, or the last name of a folder. parts: (part, the same) of those that were taken from
        elsewhere than the model's own, by the names that `Source` has for them.
    image: SHA-256 of the picture that the video starts from, as the model saw it; None for text-to-video.
    method: "naive" is clip by clip. plan: None unless streamlined.
    dtype: of the weights, "float16" or alike; "float8" where most are kept in 8 bits.
    device: its name, as its maker has it.
    versions: (package, version), Python's and this package's own among them.
    predicted, fidelity: None where nobody asked.
    disturbances: slowdown warnings, a sentence each: what slowed the run down or took its memory.
    quality: that was asked of the plan; card: an emulated one that it was made for; None where nobody asked.
    folders: ("model" or a part, fingerprint) for each of them that is a folder.
    date: in UTC, to the second, as in ISO 8601.

    Raises InputError when a field does not fit.
    """

    model: str
    job: Job
    plan: Plan | None
    method: Method
    device: str
    dtype: str
    versions: tuple[tuple[str, str], ...]
    measured: Measured
    date: str
    predicted: Predicted | None = None
    fidelity: Fidelity | None = None
    image: str | None = None
    parts: tuple[tuple[str, str], ...] = ()
    disturbances: tuple[str, ...] = ()
    quality: Quality | None = None
    card: str | None = None
    folders: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.names.items():
            if not (isinstance(value, str) and NAME.fullmatch(value)):
                raise InputError(f"A receipt's {name.replace('_', ' ')} must be a name or a hub id.")
        if self.method not in get_args(Method) or (self.plan is None) is (self.method == "streamlined"):
            raise InputError("A receipt has a plan when its method is streamlined, and none for original or naive.")
        for name in ("device", "dtype", "date"):
            if not isinstance(getattr(self, name), str) or len(getattr(self, name)) > 200:
                raise InputError(f"A receipt's {name} must be a short text.")
        if self.image is not None and not (isinstance(self.image, str) and DIGEST.fullmatch(self.image)):
            raise InputError("A receipt's image must be a SHA-256.")
        texts = self.disturbances
        if len(texts) > 8 or not all(isinstance(text, str) and len(text) <= 500 for text in texts):
            raise InputError("A receipt's disturbances must be a few sentences.")
        if self.quality is not None and self.quality not in QUALITIES:
            raise InputError(f"A receipt's quality must be one of {', '.join(QUALITIES)}.")
        if self.card is not None and not (isinstance(self.card, str) and 0 < len(self.card) <= 200):
            raise InputError("A receipt's card must be a short text.")
        names = self.names
        if not all(name in names and isinstance(told, str) and DIGEST.fullmatch(told) for name, told in self.folders):
            raise InputError("A receipt's folders must be fingerprints of its model, or of a part that it names.")

    @property
    def seed(self) -> int:
        return self.job.seed

    @property
    def names(self) -> dict[str, str]:
        """What is called how: "model", and the parts that were taken from elsewhere."""
        return {"model": self.model, **dict(self.parts)}

    @property
    def source(self) -> Source:
        """What the video was made from, folders by their last names only."""
        return Source(self.model, self.parts)

    @property
    def exactness(self) -> Literal["exact", "approximate"]:
        """Whether the method gives the original's video, but for rounding."""
        is_approximate = self.method == "naive" or (self.plan is not None and not self.plan.is_exact)
        is_approximate |= self.dtype == FLOAT8_NAME
        return "approximate" if is_approximate else "exact"

    def starts_from(self, image: Image.Image) -> bool:
        """Return whether a picture is the one that the video starts from."""
        return self.image is not None and digest(image, self.job) == self.image

    def is_of(self, name: str, folder: str) -> bool:
        """Return whether a folder is what the video was made with: by its fingerprint, or else by its name.

        name: "model", or a part.
        """
        told = dict(self.folders).get(name)
        try:
            if told is None:
                return public_name(folder) == self.names.get(name)
            return fingerprint(Path(folder).expanduser()) == told
        except (OSError, RuntimeError, ValueError):  # nothing of that name can be read
            return False

    @classmethod
    def of(
        cls,
        pipe: DiffusionPipeline,
        result: Result,
        *,
        source: Source | None = None,
        image: Image.Image | None = None,
        naive: bool = False,
        predicted: Prediction | None = None,
        fidelity: Fidelity | None = None,
        quality: Quality | None = None,
        card: str | None = None,
        **former: str | None,
    ) -> Receipt:
        """Return the receipt of a run that has just ended.

        source: what the pipeline was loaded from; by default as `load` noted it, or as can be told from the pipeline.
        image: what `run` was given. naive: whether the result is of `run_naive`. quality: what `tune` was given.
        card: the emulated one that it was planned for.
        former: a source as arguments, "model" and its parts by name, for one version more.
        """
        known = model_of(pipe)
        told = Source(known.name) if known is not None and not source_of(pipe).parts else source_of(pipe)
        if unknown := set(former) - {"model", *all_halves()}:
            raise TypeError(f"A receipt is not made of {sorted(unknown)[0]!r}.")
        if any(former.values()):
            told = Source(former.pop("model", None) or told.name, former)
        source = source or told
        given = {"model": source.name, **dict(source.parts)}
        denoiser = denoisers_of(pipe)[0]
        packages = ((package, version(package)) for package in PACKAGES)
        predicted_totals = None if predicted is None else Predicted(predicted.peak_bytes, predicted.seconds)
        return cls(
            model=public_name(source.name),
            parts=tuple((part, public_name(name)) for part, name in source.parts),
            job=result.job,
            plan=result.plan,
            method="naive" if naive else "original" if result.plan is None else "streamlined",
            device=detect(result.device).name,
            dtype=FLOAT8_NAME if storage_of(denoiser) else str(denoiser.dtype).removeprefix("torch."),
            versions=(("python", platform.python_version()), *packages),
            measured=Measured(
                peak_bytes=result.peak_bytes,
                weights_bytes=result.weights_bytes,
                seconds=result.seconds,
                step_seconds=result.step_seconds,
                decode_seconds=result.decode_seconds,
            ),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            predicted=predicted_totals,
            fidelity=fidelity,
            image=None if image is None else digest(image, result.job),
            disturbances=result.disturbances,
            quality=quality,
            card=card,
            folders=tuple((part, told) for part, name in given.items() if (told := _fingerprint_of(name))),
        )

    def to_dict(self) -> dict:
        """Plain data, ready for JSON, in which an infinite PSNR is null."""
        data = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "parts"}
        fidelity = self.fidelity and asdict(self.fidelity)
        if fidelity and math.isinf(fidelity["psnr"]):
            fidelity["psnr"] = None
        return {"streamline_receipt": FORMAT, **data, "seed": self.seed, "exactness": self.exactness} | {
            "job": self.job.to_dict(),
            "plan": self.plan and self.plan.to_dict(),
            "versions": dict(self.versions),
            "measured": asdict(self.measured) | {"step_seconds": list(self.measured.step_seconds)},
            "predicted": self.predicted and asdict(self.predicted),
            "fidelity": fidelity,
            "disturbances": list(self.disturbances),
            "folders": dict(self.folders),
            **dict(self.parts),
        }

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping) -> Receipt:
        """Return the inverse of `to_dict`; raises InputError for anything else."""
        if not isinstance(data, Mapping) or data.get("streamline_receipt") != FORMAT:
            raise InputError("This is no receipt of a video made here.")
        derived = {"streamline_receipt", "seed", "exactness"}
        parts = set(all_halves())  # beside the fields, and null where the model's own was taken
        known = {field.name for field in fields(cls)} - {"parts"}
        if unknown := sorted(set(data) - known - parts - derived, key=str):
            raise InputError(f"A receipt has no field {quoted(unknown[0])}.")
        optional = {
            "predicted", "fidelity", "image", "disturbances", "quality", "card", "folders",
        }  # fmt: skip
        if missing := sorted(known - optional - set(data)):
            raise InputError(f"A receipt needs the {missing[0]}.")
        values = {name: value for name, value in data.items() if name in known}
        values["parts"] = tuple((part, data[part]) for part in sorted(parts) if data.get(part) is not None)
        try:
            values["job"] = Job.from_dict(data["job"])
            values["plan"] = None if data["plan"] is None else Plan.from_dict(data["plan"])
        except StreamlineError as error:
            raise InputError(f"The receipt is not understood: {error}") from error
        values["versions"] = _texts(data["versions"], "versions")
        values["folders"] = _texts(data.get("folders", {}), "folders")
        if not isinstance(data.get("disturbances", []), list):
            raise InputError("A receipt's disturbances must be a list.")
        values["disturbances"] = tuple(data.get("disturbances", []))
        values["measured"] = _numbers(Measured, data["measured"])
        for name, kind in (("predicted", Predicted), ("fidelity", Fidelity)):
            values[name] = None if data.get(name) is None else _numbers(kind, data[name])
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Receipt:
        """Read a receipt. Raises InputError for what is no receipt, is too long or is nested too deeply."""
        if len(text) > LARGEST_BYTES:
            raise InputError("This is too long for a receipt.")
        try:
            data = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise InputError("This is no receipt: it is not valid JSON.") from error
        return cls.from_dict(data)


def public_name(model: str) -> str:
    """Return what a model is called, without where it is: of a folder, its last name."""
    if any(model == known.name for known in models()):
        return model
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).is_dir() and NAME.fullmatch(model)
    if is_hub_id:
        return model
    hub_cache = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", Path(model).as_posix())
    if hub_cache:
        return f"{hub_cache[1]}/{hub_cache[2]}"
    name = re.sub(r"[^\w.+ -]", "", Path(model).expanduser().resolve().name).lstrip("_.+ -")[:96]
    return name or "a folder"


def digest(image: Image.Image, job: Job) -> str:
    """SHA-256 of a picture's pixels once it is cut to a job's shape."""
    return hashlib.sha256(fit_to(image, job).tobytes()).hexdigest()


def _fingerprint_of(model: str) -> str | None:
    """Of what is told by no more than a folder's name; None for what has a name of its own or a hub id."""
    if any(model == known.name for known in models()) or "/" in public_name(model):
        return None
    try:
        return fingerprint(Path(model).expanduser())
    except (OSError, RuntimeError):  # it is the name of a pipeline's class, or may not be read
        return None


def _texts(data: object, name: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(data, Mapping) or not all(isinstance(text, str) for text in data.values()):
        raise InputError(f"A receipt's {name} must be texts.")
    return tuple(data.items())


def _numbers(kind: type, data: object) -> Any:
    """A dataclass of numbers from plain data."""
    names = {field.name: field.type for field in fields(kind)}
    if not isinstance(data, Mapping) or set(data) != set(names):
        raise InputError(f"A receipt's {kind.__name__.lower()} must have {', '.join(names)}.")
    values = dict(data)
    if kind is Fidelity and values["psnr"] is None:
        values["psnr"] = math.inf
    for name, value in values.items():
        parts = value if name == "step_seconds" and isinstance(value, list) else [value]
        optional = names[name].endswith("| None") and value is None
        whole = names[name] == "int"
        infinite = name == "psnr" and value == math.inf
        if not (optional or infinite) and not all(_is_number(part, whole=whole) for part in parts):
            kinds = "a whole number" if whole else "of numbers"
            raise InputError(f"A receipt's {name.replace('_', ' ')} must be {kinds}.")
        if name == "step_seconds":
            values[name] = tuple(parts)
    return kind(**values)


def _is_number(value: object, *, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < LARGEST_NUMBER


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
