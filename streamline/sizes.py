"""Sizes of memory in words: "8GiB" to bytes and back."""

from __future__ import annotations

import operator
import re
from decimal import Decimal

from .errors import InputError

MOST = 2**50  # no device has a pebibyte
LEAST_WITHOUT_UNIT = 2**20  # "8" is far more often a forgotten unit than eight bytes
BINARY = {"": 1, "B": 1} | {
    spelling: 2 ** (10 * power) for power, letter in enumerate("KMGT", 1) for spelling in (letter, f"{letter}IB")
}
DECIMAL = {f"{letter}B": 10 ** (3 * power) for power, letter in enumerate("KMGT", 1)}
UNITS = BINARY | DECIMAL


def parse_bytes(size: str | int) -> int:
    """Bytes of "8GiB", "8 GiB" or "6500MiB" (powers of 1024), of "8GB" (powers of 1000), or of a whole number.

    A letter alone, "8G", is the power of 1024, as in docker and systemd. Case does not matter, decimals are
    welcome, and parts of a byte are dropped. Text without a unit counts bytes, but at least a mebibyte of them.

    Raises InputError for anything else, for less than one byte and for more than a pebibyte.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?) ?([KMGT]?(?:I?B)?)", size.strip(), re.IGNORECASE | re.ASCII)
        if match is None or match[2].upper() not in UNITS:
            raise InputError(f"A size of memory is like 8GiB or 6500MiB, not {size[:80]!r}.")
        count = int(Decimal(match[1]) * UNITS[match[2].upper()])
        if not match[2] and 0 < count < LEAST_WITHOUT_UNIT:
            raise InputError(f"A size of memory needs a unit, like {match[1]}GiB, not {size[:80]!r}.")
    else:
        try:
            count = operator.index(size)
        except TypeError:
            count = None
        if count is None or isinstance(size, bool):
            raise InputError(f"A size of memory is a whole number of bytes, or like 8GiB, not {size!r:.80}.")
    if count < 1:
        raise InputError(f"A size of memory is at least one byte, not {str(size)[:80]!r}.")
    if count > MOST:
        raise InputError(f"A size of memory is at most 1024 TiB, not {str(size)[:80]!r}.")
    return count


def format_bytes(count: int) -> str:
    """Bytes for people, with one decimal: "8.0 GiB", "35.2 MiB", "512 B"."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
