"""What a whole process holds, as Linux counts it: tensors, libraries and the interpreter alike."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
PEAK = "5"  # by proc(5) this lets the peak start again


def reset_peak() -> int | None:
    """Let the peak start again from what this process holds now: that many bytes, or None where it cannot be done."""
    try:
        CLEAR.write_text(PEAK)
    except OSError:  # not on Linux, or a container that forbids it
        return None
    return peak_bytes()


def peak_bytes() -> int | None:
    """Return the most resident memory (VmHWM) of this process since it started, or since a reset;
    None if not on Linux."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kibibytes[0]) * 1024 if kibibytes else None


def give_back() -> None:
    """Let the system have what glibc keeps of memory that was freed; does nothing with another C library.

    Every thread that made a video would keep some of it otherwise, and a server would grow from run to run.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
