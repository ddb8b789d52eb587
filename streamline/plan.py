"""What to cut and how finely: the one description of a run that can be written down and run again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from .errors import PlanError

Guidance = Literal["together", "apart"]
BlockSlicing = tuple[tuple[str, "Slicing"], ...]

EVERY_BLOCK = "*"
BLOCK_NAME = re.compile(r"\*|in|mid|out|(down|up)\.\d+")


@dataclass(frozen=True)
class Slicing:
    """How finely one block is cut; 1 leaves an axis whole. Where a group spans blocks, the finest counts.

    frames: slices of the (batch x frames) axis in spatial stages (Feature Slicer, paper section 3.2).
    pixels: slices of the pixel axis in temporal stages.
    group: longest run of stages that one slice is carried through before the next slice starts (Operator
        Grouping, section 3.3); None carries it as far as the axis lasts.

    More slices than an axis has elements means one element a slice. Raises PlanError for counts below one.
    """

    frames: int = 1
    pixels: int = 1
    group: int | None = None

    def __post_init__(self) -> None:
        for field in ("frames", "pixels", "group"):
            value = getattr(self, field)
            if value is None and field == "group":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PlanError(f"Slicing.{field} must be a whole number of at least 1, not {value!r}.")


@dataclass(frozen=True)
class Plan:
    """How to run a pipeline: equal plans on equal inputs give equal videos.

    denoiser, decoder: slicing by block name ("in", "down.0", "mid", "up.3", "out"), "*" for every block not
        named. Pass a Slicing for all blocks, or a mapping; either is kept as a sorted tuple of pairs. A plan
        may name deeper blocks than a network has, so that one plan serves networks of several depths.
    guidance: "together" runs the guidance halves (and any further samples) as one batch, as diffusers does;
        "apart" runs one sample of the batch after the other, with the same result and less memory.

    Raises PlanError when a field does not fit.
    """

    denoiser: BlockSlicing | Mapping[str, Slicing] | Slicing = Slicing()
    decoder: BlockSlicing | Mapping[str, Slicing] | Slicing = Slicing()
    guidance: Guidance = "together"

    def __post_init__(self) -> None:
        object.__setattr__(self, "denoiser", _by_block(self.denoiser))
        object.__setattr__(self, "decoder", _by_block(self.decoder))
        if self.guidance not in get_args(Guidance):
            raise PlanError(f'Plan.guidance must be "together" or "apart", not {self.guidance!r}.')

    @classmethod
    def uniform(cls, slices: int, *, guidance: Guidance = "apart") -> Plan:
        """The same number of slices on both axes of every block."""
        slicing = Slicing(frames=slices, pixels=slices)
        return cls(denoiser=slicing, decoder=slicing, guidance=guidance)

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        return {
            "denoiser": {block: asdict(slicing) for block, slicing in self.denoiser},
            "decoder": {block: asdict(slicing) for block, slicing in self.decoder},
            "guidance": self.guidance,
        }

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping) -> Plan:
        """The inverse of `to_dict`; raises PlanError for anything else."""
        if not isinstance(data, Mapping):
            raise PlanError("A plan must be a JSON object.")
        unknown = set(data) - {"denoiser", "decoder", "guidance"}
        if unknown:
            raise PlanError(f"A plan has no field {sorted(unknown)[0]!r}.")
        return cls(
            denoiser=_slicing_from_dict(data.get("denoiser", {})),
            decoder=_slicing_from_dict(data.get("decoder", {})),
            guidance=data.get("guidance", "together"),
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
            raise PlanError(f'{block!r} is no block; blocks are "in", "mid", "out", "down.N", "up.N" and "*".')
    return tuple(sorted(pairs.items()))


def _slicing_from_dict(data: Mapping) -> dict[str, Slicing]:
    if not isinstance(data, Mapping):
        raise PlanError("A plan's slicing must be a JSON object of blocks.")
    blocks = {}
    for block, fields in data.items():
        try:
            blocks[block] = Slicing(**fields)
        except TypeError as error:
            raise PlanError(f"The slicing of block {block!r} is not understood: {error}.") from error
    return blocks
