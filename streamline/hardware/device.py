"""What a device is and how much of it is free, at one moment: plain data that everything else plans with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from ..errors import DeviceError

Kind = Literal["cuda", "mps", "cpu"]
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Device:
    """A device and its memory.

    index: torch's, so that f"{kind}:{index}" names it; 0 where there is one of a kind.
    total_bytes: what all processes together may hold.
    free_bytes: what nobody holds now.
    used_by_others_bytes: what other processes hold, and the driver. What this process holds is the rest.
    context_bytes: what the device's runtime takes of a process's share before the first tensor; 0 on a CPU.
    dtypes: names of the types that it computes with natively.
    version: of its driver and runtime, None for a CPU.
    sources: where each figure comes from, as (figure, words) pairs; a mapping is taken too.
    emulated: it is not here, but planned for.

    Raises DeviceError when a field does not fit.
    """

    kind: Kind
    index: int
    name: str
    total_bytes: int
    free_bytes: int
    used_by_others_bytes: int
    context_bytes: int
    dtypes: tuple[str, ...]
    version: str | None = None
    sources: tuple[tuple[str, str], ...] | Mapping[str, str] = ()
    emulated: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DeviceError(f"A device is cuda, mps or cpu, not {self.kind!r}.")
        for name in ("index", "total_bytes", "free_bytes", "used_by_others_bytes", "context_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise DeviceError(f"Device.{name} must be a whole number of at least 0, not {value!r}.")
        if not isinstance(self.dtypes, list | tuple) or not set(self.dtypes) <= set(DTYPES):
            raise DeviceError(f"Device.dtypes must be some of {', '.join(DTYPES)}, not {self.dtypes!r}.")
        object.__setattr__(self, "dtypes", tuple(self.dtypes))
        try:
            object.__setattr__(self, "sources", tuple(sorted(dict(self.sources).items())))
        except (TypeError, ValueError) as error:
            raise DeviceError("Device.sources must map figures to words.") from error

    @property
    def own_bytes(self) -> int:
        """What this process holds of it already."""
        return max(0, self.total_bytes - self.free_bytes - self.used_by_others_bytes)

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        return asdict(self) | {"dtypes": list(self.dtypes), "sources": dict(self.sources)}

    @classmethod
    def from_dict(cls, data: Mapping) -> Device:
        """Return the inverse of `to_dict`; raises DeviceError for anything else."""
        if not isinstance(data, Mapping):
            raise DeviceError("A device must be a JSON object.")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(map(str, set(data) - known)):
            raise DeviceError(f"A device has no field {unknown[0]!r}.")
        try:
            return cls(**data)
        except TypeError as error:
            raise DeviceError(f"The device is not understood: {error}.") from error
