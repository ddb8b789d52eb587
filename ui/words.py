"""Figures and failures in words: what people read everywhere in the app."""

from __future__ import annotations

import streamline

GIB, MIB = 2**30, 2**20


def size(count: float) -> str:
    """Bytes: "7.4 GiB", "35.2 MiB", "–" for none."""
    if count <= 0:
        return "–"
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.1f} MiB" if count < 100 * MIB else f"{count / MIB:.0f} MiB"


def size_up(count: float) -> str:
    """Bytes, rounded up to what is shown, so that what is named is enough."""
    step = GIB / 10 if count >= GIB else MIB if count >= 100 * MIB else MIB / 10
    return size(-(-count // step) * step)


def duration(seconds: float) -> str:
    """Seconds: "0.4 s", "12 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """ "1 frame", "8 frames"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def failure(error: BaseException) -> str:
    """What went wrong, in a sentence; errors of streamline say it themselves."""
    if isinstance(error, streamline.StreamlineError):
        return str(error)
    first_line = str(error).strip().partition("\n")[0].rstrip(".")
    return ": ".join(filter(None, ("Something went wrong", type(error).__name__, first_line))) + "."
