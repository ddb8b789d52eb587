"""Whether files of weights are whole, told from their headers before anything is loaded.

A safetensors file begins with the length of its header, the header says where every tensor lies, and the last one
ends where the file does. A download or a copy that was cut short does not, and neither does a file of another kind.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from ..errors import ModelError

SHARD = re.compile(r"-\d{5}-of-\d{5}")
INDEX = "*.safetensors.index*.json"
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it
LENGTH = 8  # bytes of the header's length, before it
BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
         "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}  # fmt: skip


def has_weights(folder: Path) -> bool:
    """Return whether a network's folder holds a file with all of its weights,
    or every file that an index of several names."""
    whole = any(not SHARD.search(path.name) for path in folder.glob("*.safetensors"))
    return whole or any(all(shard.is_file() for shard in _shards(index)) for index in folder.glob(INDEX))


def check_weights(folder: Path) -> None:
    """Raise ModelError, one sentence that names the file, unless every safetensors file in a folder is whole."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            trouble = _trouble(path)
        except OSError as error:
            trouble = f"it cannot be read ({error.strerror or error})"
        if trouble:
            raise ModelError(f"The weights in {path} cannot be read: {trouble}; delete the file and fetch it again.")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, itself among them; where it cannot be read, one that is not there."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return [index / "unreadable"]
    return [index, *(index.parent / str(name) for name in names)]


def _trouble(path: Path) -> str:
    """What is wrong with a file; "" for nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        if size < LENGTH or length > min(LONGEST_HEADER, size - LENGTH):
            return "it is no safetensors file, or it was cut short"
        try:
            header = json.loads(file.read(length))
            ends = [_end(tensor) for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "its header is damaged"
    stored = size - LENGTH - length
    if max(ends, default=0) != stored:
        return f"it should hold {max(ends, default=0):,} bytes of weights and holds {stored:,}"
    return ""


def _end(tensor: dict) -> int:
    """Where a tensor ends; raises ValueError for one whose shape takes other bytes than it has."""
    start, end = tensor["data_offsets"]
    wanted = math.prod(tensor["shape"]) * BYTES.get(tensor["dtype"], 0)
    if not 0 <= start <= end or (wanted and wanted != end - start):
        raise ValueError("a tensor does not fit its place")
    return end
