"""Write files atomically: to a temporary file beside them, which takes their name once it is complete.

The name of a temporary file says which machine and process it is of, so that what a killed process has left is
removed, and what another is still writing is not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .errors import InputError

LONGEST = 32  # characters of the name that it is to have
STRANGERS = 24 * 3600  # seconds without a change after which another machine's temporary file is left for good
NAME = re.compile(r"\..+\.(?P<machine>[0-9a-f]{6})-(?P<process>\d{1,9})-[0-9a-f]{8}\.draft")
log = logging.getLogger(__name__)


def temporary_path(path: Path) -> Path:
    """Return where to write what is to appear at a path, a file or a folder; the same path never again."""
    return path.with_name(f".{path.name[:LONGEST]}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.draft")


def clear_temporary_files(folder: Path) -> None:
    """Remove from a folder what processes that are gone had begun to write there, and log it."""
    for temporary in folder.glob(".*.draft"):
        if _is_left(temporary):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                with suppress(OSError):  # another user's
                    temporary.unlink(missing_ok=True)
            if temporary.exists():
                continue
            log.warning("what was not written to its end is removed: %s", temporary.name)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield where to write what is to appear at `path` once the block ends; nothing appears after an error.

    It is in a folder of its own, so that whatever is written beside it goes with it.
    Raises InputError for what the system refuses.
    """
    temporary = temporary_path(path)
    try:
        clear_temporary_files(path.parent)
        try:
            temporary.mkdir()
            yield temporary / path.name
            os.replace(temporary / path.name, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _is_left(temporary: Path) -> bool:
    match = NAME.fullmatch(temporary.name)
    try:
        changed = temporary.stat().st_mtime
    except OSError:  # it has just become what it was to be
        return False
    if match is None or match["machine"] != _machine():
        return match is not None and changed < time.time() - STRANGERS
    try:
        return psutil.Process(int(match["process"])).create_time() > changed + 1  # its number was given anew
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]
