"""The model families there are, and which one a pipeline belongs to.

Those that ship are listed in streamline/families; others register themselves (`register_family`), or are found by the
entry point "streamline.families" of an installed package, which names a Family or a module that registers some.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from .errors import ModelError, UnsupportedError
from .fields import COMMON, Field

ENTRY_POINT = "streamline.families"
# What jobs, sources, receipts, forms and commands have beside the fields and parts of families.
RESERVED = {
    "budget", "card", "date", "device", "disturbances", "dtype", "emulate", "exactness", "fidelity", "folders",
    "for_model", "from_dict", "from_json", "from_receipt", "help", "image", "is_guided", "job", "json", "measured",
    "method", "model", "naive", "name", "offline", "options", "original", "out", "own", "part", "parts", "plan",
    "predicted", "quality", "size", "slices", "source", "streamline_receipt", "to_dict", "to_json", "versions",
}  # fmt: skip
log = logging.getLogger(__name__)


class Registered(Protocol):
    """What is asked of a family here; families/base.py says the rest."""

    name: str
    pipelines: tuple[type, ...]
    networks: tuple[Any, ...]
    fields: tuple[Field, ...]
    halves: tuple[Any, ...]


_families: dict[str, Any] = {}
_state = {"loaded": False}
_loading = threading.RLock()


def register_family(family: Registered) -> None:
    """Add a family, or put another in the place of one with its name.

    Raises ModelError for what means something else already: a class of pipelines or of networks, or the name, option
    or short name of a field or of a part that may be taken from elsewhere.
    """
    others = [one for name, one in _families.items() if name != family.name]
    if taken := _taken_kind(family, others) or _taken_name(family, others):
        raise ModelError(f"The family {family.name} cannot be registered: {taken}.")
    _families[family.name] = family


def _taken_kind(family: Registered, others: Sequence[Registered]) -> str | None:
    """What is wrong with a family's classes, in words."""
    networks = {network.kind: network for one in others for network in one.networks}
    for one in others:
        for kind in set(family.pipelines) & set(one.pipelines):
            return f"{kind.__name__} is of the family {one.name}"
    for network in family.networks:
        if networks.get(network.kind, network) != network:
            return f"{network.kind.__name__} is run otherwise by another family"
    return None


def _taken_name(family: Registered, others: Sequence[Registered]) -> str | None:
    """What is wrong with the names of a family's fields and halves, in words; equal fields may be shared."""
    others_fields = [field for one in others for field in one.fields]
    taken = {key: field for field in (*COMMON, *others_fields) for key in _keys(field)}
    names = [half.name for half in family.halves]
    for name in names:
        if name in RESERVED or name in taken or names.count(name) > 1:
            return f"the name of its part {name!r} is taken"
    no_names = RESERVED | {half.name for one in (family, *others) for half in one.halves}
    for field in family.fields:
        if _keys(field) & no_names or any(taken.setdefault(key, field) != field for key in _keys(field)):
            return f"a name of its field {field.name!r} is taken"
    return None


def _keys(field: Field) -> set[str]:
    """What a field is called anywhere."""
    return {field.name, field.short, field.option.removeprefix("--").replace("-", "_")} - {""}


def families() -> tuple[Any, ...]:
    """Return all families, those that ship first."""
    with _loading:
        if not _state["loaded"]:
            _state["loaded"] = True  # what is loaded may ask for families, and sees those so far
            importlib.import_module(f"{__package__}.families")
            for point in entry_points(group=ENTRY_POINT):
                _load(point)
    return tuple(_families.values())


def _load(point: EntryPoint) -> None:
    try:
        found = point.load()
        if hasattr(found, "pipelines"):
            register_family(found)
    except Exception as error:  # somebody else's code must not keep ours from starting
        log.warning("the family %s could not be loaded: %s", point.name, error)


def family_of(pipe: object) -> Any:
    """Return the family of a pipeline, or of a class of pipelines by its name.

    A class that derives from several known ones is of the family of the nearest.
    Raises UnsupportedError, with the names of those that are known, for a pipeline of none.
    """
    is_name = isinstance(pipe, str)
    for kind in [pipe] if is_name else type(pipe).__mro__:
        for family in families():
            if kind in ([one.__name__ for one in family.pipelines] if is_name else family.pipelines):
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
