"""The model families there are, and which one a pipeline belongs to.

Those that ship are listed in streamline/families; others register themselves (`register_family`), or are found by the
entry point "streamline.families" of an installed package, which names a Family or a module that registers some.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

from .errors import ModelError, UnsupportedError
from .fields import COMMON, Field

ENTRY_POINT = "streamline.families"
log = logging.getLogger(__name__)


class Registered(Protocol):
    """What is asked of a family here; families/base.py says the rest."""

    name: str
    pipelines: tuple[type, ...]
    fields: tuple[Field, ...]


_families: dict[str, Any] = {}
_state = {"loaded": False}


def register_family(family: Registered) -> None:
    """Add a family, or put another in the place of one with its name.

    Raises ModelError for a field of its own whose name, option or short name is taken by another field.
    """
    others = [field for name, one in _families.items() if name != family.name for field in one.fields]
    taken = {key: field for field in (*COMMON, *others) for key in _keys(field)}
    for field in family.fields:
        if any(taken.get(key, field) != field for key in _keys(field)):
            raise ModelError(
                f"There is a field {field.name!r} unlike that of {family.name}, or one with its option or short name."
            )
    _families[family.name] = family


def _keys(field: Field) -> set[str]:
    return {field.name, field.short, field.option} - {""}


def families() -> tuple[Any, ...]:
    """Return all families, those that ship first."""
    if not _state["loaded"]:
        _state["loaded"] = True
        importlib.import_module(f"{__package__}.families")
        for point in entry_points(group=ENTRY_POINT):
            try:
                found = point.load()
            except Exception as error:  # somebody else's code must not keep ours from starting
                log.warning("the family %s could not be loaded: %s", point.name, error)
                continue
            if hasattr(found, "pipelines"):
                register_family(found)
    return tuple(_families.values())


def family_of(pipe: object) -> Any:
    """Return the family of a pipeline, or of a class of pipelines by its name.

    Raises UnsupportedError, with the names of those that are known, for a pipeline of none.
    """
    for family in families():
        names = [kind.__name__ for kind in family.pipelines]
        if pipe in names if isinstance(pipe, str) else isinstance(pipe, family.pipelines):
            return family
    known = ", ".join(kind.__name__ for family in families() for kind in family.pipelines)
    name = pipe if isinstance(pipe, str) else type(pipe).__name__
    raise UnsupportedError(f"{name} cannot be streamlined; these can: {known}.")


def family_named(name: str) -> Any:
    """Return the family of a name; raises UnsupportedError where there is none."""
    found = next((family for family in families() if family.name == name), None)
    if found is None:
        raise UnsupportedError(f"There is no model family {name!r}.")
    return found


def own_fields() -> Mapping[str, Field]:
    """Return the fields that some families' jobs have beside the common ones, by name."""
    return {field.name: field for family in families() for field in family.fields}
