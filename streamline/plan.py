"""What to cut and how finely: the one description of a run that can be written down and run again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, get_args

from .errors import PlanError, quoted
from .sampler import Sampler

Guidance = Literal["batched", "sequential"]
Residency = Literal["resident", "model offload", "group offload"]
Keep = Literal["whole", "rows", "host"]
BlockSlicing = tuple[tuple[str, "Slicing"], ...]

EVERY_BLOCK = "*"
SPARSE = 4  # every so many pixels of a kept feature, in both directions, are enough to judge extrapolation by
BLOCK_NAME = re.compile(r"\*|[A-Za-z]\w{0,63}(\.\d{1,4})*")  # which of them there are, a network's family says
# Values that plans and receipts were written with before, by field; they are read as these.
FORMER = {
    "guidance": {"together": "batched", "apart": "sequential"},
    "residency": {"all": "resident", "stages": "model offload", "streamed": "group offload"},
}


@dataclass(frozen=True)
class Slicing:
    """How finely one block is cut; 1 leaves an axis whole. Where a group spans blocks, the finest counts.

    frames: slices of the (batch x frames) axis in spatial stages (Feature Slicer, paper section 3.2).
    pixels: slices of the pixel axis in temporal stages, and of tokens or lines where stages are cut over those.
    group: longest run of stages that one slice is carried through before the next slice starts (Operator
        Grouping, section 3.3); None carries it as far as the axis lasts.
    keep: how the values between its sliced groups are kept. "whole": each as one tensor. "rows": row by row, freed as
        they are consumed; what a second norm of a group looks at is computed twice and never kept. "host": likewise,
        in host memory.

    More slices than an axis has elements means one element a slice. Raises PlanError for counts below one.
    """

    frames: int = 1
    pixels: int = 1
    group: int | None = None
    keep: Keep = "whole"

    def __post_init__(self) -> None:
        if self.keep not in get_args(Keep):
            raise PlanError(f'Slicing.keep must be "whole", "rows" or "host", not {quoted(self.keep)}.')
        for name in ("frames", "pixels", "group"):
            value = getattr(self, name)
            if value is None and name == "group":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PlanError(f"Slicing.{name} must be a whole number of at least 1, not {quoted(value)}.")


@dataclass(frozen=True)
class Rehash:
    """Steps that reuse a feature of the step before instead of computing what leads to it (paper section 3.4).

    full_steps: indices of the steps that compute everything, the first one 0 among them; kept sorted. Steps after
        the last one of them are computed in full too.
    cut: what is kept: a cache point that the network's family names (a UNet's "deepcache", "last-layer" or "paper",
        families/layers/cache_points.py), "prediction", which is every network's output, or any value of the program by
        its own name ("up.3.attention.0.0.temporal").
    extrapolation: 0 reuses the feature as it is; above 0, up to 1, it is moved on by that share of its change
        between the last two full steps, in proportion to the noise level. It keeps two features, and is left off
        where it would have missed the last full step's feature by more than plain reuse.
    guard: the relative change of the latents since the last full step above which the next step is computed in
        full, though the plan would reuse; None trusts the plan.

    Raises PlanError when a field does not fit.
    """

    full_steps: tuple[int, ...]
    cut: str
    extrapolation: float = 0.0
    guard: float | None = None

    def __post_init__(self) -> None:
        try:
            steps = tuple(sorted(set(self.full_steps)))
        except TypeError as error:
            raise PlanError("Rehash.full_steps must be a list of steps.") from error
        if not steps or not all(isinstance(s, int) and not isinstance(s, bool) for s in steps) or steps[0] != 0:
            raise PlanError("Rehash.full_steps must be whole numbers that start with 0.")
        if not isinstance(self.cut, str) or not self.cut:
            raise PlanError("Rehash.cut must name a value of the program.")
        if not _is_number(self.extrapolation) or not 0 <= self.extrapolation <= 1:
            raise PlanError(f"Rehash.extrapolation must be from 0 to 1, not {quoted(self.extrapolation)}.")
        if self.guard is not None and not (_is_number(self.guard) and self.guard > 0):
            raise PlanError(f"Rehash.guard must be a number above 0, or None, not {quoted(self.guard)}.")
        object.__setattr__(self, "full_steps", steps)

    def is_full(self, step: int) -> bool:
        """Whether a step computes everything, as far as is known beforehand."""
        return step in self.full_steps or step > self.full_steps[-1]

    def count_full(self, steps: int) -> int:
        """How many of so many steps compute everything."""
        return sum(self.is_full(step) for step in range(steps))


@dataclass(frozen=True)
class Plan:
    """How to run a pipeline: equal plans on equal inputs give equal videos.

    denoiser, decoder: slicing by block name ("in", "down.0", "mid", "up.3", "out"), "*" for every block not
        named. Pass a Slicing for all blocks, or a mapping; either is kept as a sorted tuple of pairs. A plan
        may name deeper blocks than a network has, so that one plan serves networks of several depths; one that names
        a block of another kind of network is refused where it is applied or predicted.
    guidance: "batched" runs the guidance halves (and any further samples) as one batch, as diffusers does;
        "sequential" runs one sample of the batch after the other, with the same result and less memory.
    residency: "resident" keeps every network on the device. "model offload" brings each in for its stage of the
        pipeline and back to host memory after it, by diffusers' enable_model_cpu_offload. "group offload" keeps
        all weights in host memory and brings those of the denoiser and the decoder a few layers at a time,
        prefetched while others run; where host memory is short, they lie in mapped files. On a CPU there is no
        other memory: the first two are the same, and the last makes copies, which save nothing unless weights lie
        in files.
    The values that both had before (`FORMER`) are read as these.
    rehash: which denoising steps reuse what; None computes every step in full, which is exact.
    sampler: other denoising steps than the job's, which is not exact; None takes those. `run` sees to it; inside
        `apply` the pipeline is called with `plan.sampler.arguments()`.
    budget_bytes: what a run by this plan may hold on the device, enforced as a hard cap; None for no cap.
    reasons: why it is as it is, one line each. Plans that differ in nothing else are equal.

    Raises PlanError when a field does not fit.
    """

    denoiser: BlockSlicing | Mapping[str, Slicing] | Slicing = Slicing()
    decoder: BlockSlicing | Mapping[str, Slicing] | Slicing = Slicing()
    guidance: Guidance = "batched"
    residency: Residency = "resident"
    rehash: Rehash | None = None
    sampler: Sampler | None = None
    budget_bytes: int | None = None
    reasons: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "denoiser", _by_block(self.denoiser))
        object.__setattr__(self, "decoder", _by_block(self.decoder))
        for name, former in FORMER.items():
            value = getattr(self, name)
            object.__setattr__(self, name, former.get(value, value) if isinstance(value, str) else value)
        if self.guidance not in get_args(Guidance):
            raise PlanError(f'Plan.guidance must be "batched" or "sequential", not {quoted(self.guidance)}.')
        if self.residency not in get_args(Residency):
            known = '"resident", "model offload" or "group offload"'
            raise PlanError(f"Plan.residency must be {known}, not {quoted(self.residency)}.")
        if self.rehash is not None and not isinstance(self.rehash, Rehash):
            raise PlanError("Plan.rehash must be a Rehash, or None.")
        if self.sampler is not None and not isinstance(self.sampler, Sampler):
            raise PlanError("Plan.sampler must be a Sampler, or None.")
        budget = self.budget_bytes
        if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 1):
            raise PlanError(f"Plan.budget_bytes must be a whole number of bytes, or None, not {quoted(budget)}.")
        if not isinstance(self.reasons, (list, tuple)) or not all(isinstance(line, str) for line in self.reasons):
            raise PlanError("Plan.reasons must be lines of text.")
        object.__setattr__(self, "reasons", tuple(self.reasons))

    @classmethod
    def uniform(cls, slices: int, *, guidance: Guidance = "sequential") -> Plan:
        """The same number of slices on both axes of every block."""
        slicing = Slicing(frames=slices, pixels=slices)
        return cls(denoiser=slicing, decoder=slicing, guidance=guidance)

    @property
    def is_exact(self) -> bool:
        """Whether a run gives the same video as the untouched pipeline."""
        return self.rehash is None and self.sampler is None

    def steps(self, asked: int) -> int:
        """How many denoising steps a run takes where the job asks for so many."""
        return asked if self.sampler is None else self.sampler.steps

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        return {
            "denoiser": {block: asdict(slicing) for block, slicing in self.denoiser},
            "decoder": {block: asdict(slicing) for block, slicing in self.decoder},
            "guidance": self.guidance,
            "residency": self.residency,
            "rehash": self.rehash and {**asdict(self.rehash), "full_steps": list(self.rehash.full_steps)},
            "sampler": self.sampler and self.sampler.to_dict(),
            "budget_bytes": self.budget_bytes,
            "reasons": list(self.reasons),
        }

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping) -> Plan:
        """The inverse of `to_dict`; raises PlanError for anything else."""
        if not isinstance(data, Mapping):
            raise PlanError("A plan must be a JSON object.")
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise PlanError(f"A plan has no field {quoted(sorted(unknown)[0])}.")
        return cls(
            denoiser=_slicing_from_dict(data.get("denoiser", {})),
            decoder=_slicing_from_dict(data.get("decoder", {})),
            rehash=_part_from_dict(Rehash, data.get("rehash"), {"full_steps", "cut"}),
            sampler=_part_from_dict(Sampler, data.get("sampler"), {"steps"}),
            **{name: data[name] for name in ("guidance", "residency", "budget_bytes", "reasons") if name in data},
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"The plan is not valid JSON: {error}.") from error
        return cls.from_dict(data)


def slicing_for(blocks: Mapping[str, Slicing], block: str) -> Slicing:
    """The slicing of one block: its own entry, else the one for "*", else unsliced."""
    return blocks.get(block) or blocks.get(EVERY_BLOCK) or Slicing()


def _by_block(value: BlockSlicing | Mapping[str, Slicing] | Slicing) -> BlockSlicing:
    if isinstance(value, Slicing):
        value = {EVERY_BLOCK: value}
    try:
        pairs = dict(value)
    except (TypeError, ValueError):
        pairs = None
    if pairs is None or not all(isinstance(k, str) and isinstance(v, Slicing) for k, v in pairs.items()):
        raise PlanError("A plan's slicing must be a Slicing or map block names to Slicing.")
    for block in pairs:
        if not BLOCK_NAME.fullmatch(block):
            raise PlanError(f'{quoted(block)} is no name of a block; those are like "mid" or "up.3", or "*" for all.')
    return tuple(sorted(pairs.items()))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _part_from_dict(kind: type, data: Mapping | None, required: set[str]) -> Rehash | Sampler | None:
    """A part of a plan that may be missing, and so may its fields that are not required."""
    if data is None:
        return None
    known = {field.name for field in fields(kind)}
    if not isinstance(data, Mapping) or not required <= set(data) <= known:
        names = " and ".join(f'"{name}"' for name in sorted(required))
        raise PlanError(f"A plan's {kind.__name__.lower()} must be a JSON object with {names}.")
    return kind(**data)


def _slicing_from_dict(data: Mapping) -> dict[str, Slicing]:
    if not isinstance(data, Mapping):
        raise PlanError("A plan's slicing must be a JSON object of blocks.")
    blocks = {}
    for block, slicing in data.items():
        try:
            blocks[block] = Slicing(**slicing)
        except TypeError as error:
            raise PlanError(f"The slicing of block {quoted(block)} is not understood: {str(error)[:200]}.") from error
    return blocks
