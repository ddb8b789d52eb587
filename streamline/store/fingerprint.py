"""Which model a folder holds, told without naming the folder and without reading all of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

KINDS = {".safetensors", ".json", ".txt"}  # weights, configurations, vocabularies
INDICES = ("model_index.json", "config.json")
PIECES, PIECE = 64, 1 << 14  # of a large file that are read, evenly over it; bytes of each


def fingerprint(folder: Path) -> str:
    """SHA-256 of a model's files: their names and sizes, and of large ones a megabyte from all over them.

    It takes milliseconds. Training, or merging a LoRA, changes a good part of the weights, so that some of the places
    that are read change with them. Raises OSError where there is no model, or where its files cannot be read.
    """
    if not any((folder / name).is_file() for name in INDICES):
        raise FileNotFoundError(folder)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in KINDS and path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= PIECES * PIECE:
                digest.update(file.read())
                continue
            for index in range(PIECES):
                file.seek(index * (size - PIECE) // (PIECES - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()
