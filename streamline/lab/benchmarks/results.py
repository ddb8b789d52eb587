"""Results as JSON: one file for a table and a model, with device, versions, date and number of clips.

What single clips gave is kept in the cache while a benchmark runs, so that one that was cut short goes on.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ...cache import cache_folder, write_json
from ...hardware.detection import detect

FOLDER = Path(__file__).parents[3] / "assets" / "benchmarks"
PACKAGES = ("streamline", "torch", "diffusers", "transformers")


def about(device: str | torch.device) -> dict:
    """Return where and when a result came about."""
    found = detect(device)
    here = {"kind": found.kind, "name": found.name, "total_bytes": found.total_bytes}
    if found.kind == "cpu":
        here["threads"] = torch.get_num_threads()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": here,
        "versions": {"python": platform.python_version()} | dict(_versions()),
    }


def save(path: Path, result: dict) -> None:
    """Write a result; a reader sees the old file or the new one, never a part."""
    write_json(path, result, indent=2)


def load(path: Path) -> dict:
    """Read a result. Raises OSError or ValueError where there is none."""
    return json.loads(path.read_text(encoding="utf-8"))


def digest_of(pipe: DiffusionPipeline) -> str:
    """Return a short name for the weights of a pipeline, so that results of others are not taken for theirs."""
    state = hashlib.sha256()
    for name, part in sorted(pipe.components.items()):
        if isinstance(part, nn.Module):
            for key, tensor in sorted(part.state_dict().items()):
                state.update(f"{name}.{key} {tuple(tensor.shape)}".encode())
                state.update(tensor.detach().double().sum().cpu().numpy().tobytes())
    return state.hexdigest()[:16]


class Records:
    """What single clips gave, line by line in a file of the cache: a run that was cut short goes on from there.

    subject: all that the figures depend on beside method and case; another subject has another file.
    """

    def __init__(self, subject: str) -> None:
        name = hashlib.sha256(subject.encode()).hexdigest()[:16]
        self._path = cache_folder() / "benchmarks" / f"{name}.jsonl"
        self._found = {(method, case): figures for method, case, figures in self._read()}

    def get(self, method: str, case: str) -> dict | None:
        """Return the figures of a method (by its identity) on a case (by its key)."""
        return self._found.get((method, case))

    def add(self, method: str, case: str, figures: dict) -> None:
        self._found[method, case] = figures
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([method, case, figures]) + "\n")

    def _read(self) -> Iterator[tuple[str, str, dict]]:
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                method, case, figures = json.loads(line)
            except ValueError:  # a line that a killed run left unfinished
                continue
            yield method, case, figures


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except ModuleNotFoundError:  # this package itself need not be installed
            continue
