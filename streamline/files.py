"""Drafts: where files are written until they are complete, and what processes that were killed have left there.

A draft stands beside what it becomes. Its name says which machine and process it is of, so that nobody removes what
another is still writing.
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
STRANGERS = 24 * 3600  # seconds without a change after which another machine's draft is left for good
NAME = re.compile(r"\..+\.(?P<machine>[0-9a-f]{6})-(?P<process>\d{1,9})-[0-9a-f]{8}\.draft")
log = logging.getLogger(__name__)


def draft_of(path: Path) -> Path:
    """Where to write what is to appear at a path, a file or a folder; the same place never again."""
    return path.with_name(f".{path.name[:LONGEST]}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.draft")


def clear_drafts(folder: Path) -> None:
    """Remove from a folder what processes that are gone had begun to write there, and log it."""
    for draft in folder.glob(".*.draft"):
        if _is_left(draft):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                with suppress(OSError):  # another user's
                    draft.unlink(missing_ok=True)
            if draft.exists():
                continue
            log.warning("what was not written to its end is removed: %s", draft.name)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Where to write what is to appear at `path` once it is complete; in a folder, so that all of it goes at once.

    Raises InputError for what the system refuses.
    """
    draft = draft_of(path)
    try:
        clear_drafts(path.parent)
        try:
            draft.mkdir()
            yield draft / path.name
            os.replace(draft / path.name, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _is_left(draft: Path) -> bool:
    match = NAME.fullmatch(draft.name)
    try:
        changed = draft.stat().st_mtime
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
