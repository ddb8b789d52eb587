"""Where a model's files are on this machine, and whether all of them are there."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import ModelError
from ..registry import families
from .checks import check_weights, has_weights

BUNDLED = Path(__file__).parents[2] / "assets" / "models"
# Components that have no weights, but without which a pipeline cannot be made.
OTHERS = ("tokenizer", "tokenizer_2", "scheduler", "feature_extractor")


def components() -> set[str]:
    """Return the names of components with weights, of the pipelines of all families."""
    return {name for family in families() for name in family.components}


def find(source: str) -> Path | None:
    """Return the complete folder of a hub id or path, if it is on this machine.

    Raises ModelError for a folder whose index cannot be read.
    """
    try:
        folder = Path(source).expanduser()
        if not folder.is_dir() and is_hub_id(source):
            cached = (try_to_load_from_cache(source, index) for index in ("model_index.json", "config.json"))
            folder = next((Path(file).parent for file in cached if isinstance(file, str)), folder)
        return folder if is_complete(folder) else None
    except ModelError:
        raise
    except (RuntimeError, OSError, ValueError):  # no such user's home, a name too long: nothing can be there
        return None


def is_hub_id(source: str) -> bool:
    """Return whether a text can be a model's id on the hub, organisation/name."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return "/" in source


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds the weights of every network in its index (a lone network has no index)."""
    index = read_index(folder)
    if index is None:
        return (folder / "config.json").is_file() and has_weights(folder)
    known = components()
    present = [name for name, kind in index.items() if name in known and any(kind)]
    others = [name for name in OTHERS if any(index.get(name) or ())]
    return (
        bool(present)
        and all(has_weights(folder / name) for name in present)
        and all((folder / name).is_dir() for name in others)
    )


def check_files(folder: Path) -> None:
    """Raise ModelError for files of weights that were cut short, before time is spent on loading them."""
    index = read_index(folder)
    for place in [folder] if index is None else [folder / name for name in sorted(components() & set(index))]:
        check_weights(place)


def read_index(folder: Path) -> dict | None:
    """Return what model_index.json says, None where there is none; raises ModelError if it cannot be read."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / 'model_index.json'} cannot be read: {error}") from error
    if not isinstance(index, dict):
        raise ModelError(f"{folder / 'model_index.json'} cannot be read: it is no JSON object.")
    for name in components() & set(index):
        if not isinstance(index[name], list):
            raise ModelError(f"{folder / 'model_index.json'} cannot be read: its {name} is no pair of names.")
    return index
