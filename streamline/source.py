"""What a pipeline is loaded from: a model's name, hub id or folder, and other parts than its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError

SLOT = "_streamline_source"  # of a pipeline that was loaded here


@dataclass(frozen=True)
class Source:
    """What to load.

    name: of a model, a hub id, or a folder.
    parts: (part, hub id or folder) of what is taken in the place of the model's own, by the names that its family has
        for them. A mapping is taken too, and parts of "" or None are left out.

    Raises InputError for what is no text.
    """

    name: str
    parts: tuple[tuple[str, str], ...] | Mapping[str, str | None] = ()

    def __post_init__(self) -> None:
        given = {name: value for name, value in dict(self.parts).items() if value}
        if not all(isinstance(text, str) for text in (self.name, *given.values())):
            raise InputError("A model and its parts are given by names, hub ids or folders.")
        object.__setattr__(self, "parts", tuple(sorted(given.items())))

    def part(self, name: str) -> str | None:
        """Return what is to be taken for a part; None for the model's own."""
        return dict(self.parts).get(name)

    def to_dict(self) -> dict[str, str]:
        """Return plain data, ready for JSON."""
        return {"name": self.name, **dict(self.parts)}

    @classmethod
    def from_dict(cls, data: Mapping[str, str]) -> Source:
        """Return the source that `to_dict` made data of; raises TypeError or KeyError for anything else."""
        parts = dict(data)
        return cls(parts.pop("name"), parts)


def remember_source(pipe: Any, source: Source) -> None:
    """Note on a pipeline what it was loaded from."""
    vars(pipe)[SLOT] = source


def source_of(pipe: Any) -> Source:
    """Return what a pipeline was loaded from: as noted, else the folder or hub id that diffusers says."""
    noted = vars(pipe).get(SLOT)
    return noted if noted is not None else Source(str(getattr(pipe, "name_or_path", "") or type(pipe).__name__))
