"""What is worth keeping between runs, as small JSON files. A cache is a convenience: it never stops the work."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from .files import clear_temporary_files, temporary_path

PACKAGE = Path(__file__).parent
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """STREAMLINE_CACHE if it is set, else a folder of our own where the system keeps its users' caches."""
    chosen = os.environ.get("STREAMLINE_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("streamline", appauthor=False)


def digest_of_code(*folders: str) -> str:
    """Of what these folders of the package hold: what other code has found is not taken for what this one finds."""
    paths = sorted(path for folder in folders for path in (PACKAGE / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def digest_of_modules(names: Iterable[str]) -> str:
    """The same of modules from outside this package: of all that their packages hold, or of their own files."""
    paths: set[Path] = set()
    for module in (sys.modules.get(name) for name in names):
        file = getattr(module, "__file__", None)  # None where it was typed in
        if file is not None and not Path(file).is_relative_to(PACKAGE):
            paths |= set(Path(file).parent.rglob("*.py")) if module.__package__ else {Path(file)}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths) if path.is_file())).hexdigest()


def read_json(path: Path) -> dict | None:
    """The JSON object in a file; None where there is none, or none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def write_json(path: Path, data: dict, indent: int | None = None) -> None:
    """Write a JSON object so that a reader sees the old file or the new one, never a part; a full disk is logged.

    indent: for files that people read. Without it all is read in one go, so that others may be adding to it.
    """
    text = json.dumps(data, indent=indent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_temporary_files(path.parent)
        temporary = temporary_path(path)
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be kept: %s", path, error.strerror or error)
