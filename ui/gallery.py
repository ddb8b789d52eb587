"""Past runs: a folder for each, of its owner, in an output folder that never grows beyond a cap."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import streamline

from .orders import Order, Settings

CAP_BYTES = 4 * 2**30
THUMBNAIL = 192  # pixels of its longer side
VIDEO, FRAMES, ENTRY, THUMB, PICTURE = "video.mp4", "frames", "run.json", "thumbnail.jpg", "picture.png"


@dataclass(frozen=True)
class Run:
    """A finished video. name: of its folder. made: seconds of time.time()."""

    name: str
    folder: Path
    made: float
    settings: Settings
    receipt: streamline.Receipt

    @property
    def video(self) -> Path:
        return self.folder / VIDEO

    @property
    def thumbnail(self) -> Path:
        return self.folder / THUMB

    @property
    def picture(self) -> Path | None:
        """The image it was made from."""
        path = self.folder / PICTURE
        return path if path.is_file() else None

    def export(self, path: Path, crf: int) -> Path:
        """Write it in the format of a path's suffix."""
        return streamline.export(self.frames(), path, self.settings.job.fps, self.receipt, crf)

    def frames(self) -> list[Image.Image]:
        """As they were made."""
        return [Image.open(path).convert("RGB") for path in sorted((self.folder / FRAMES).glob("*.png"))]


class Gallery:
    """The runs of every owner. An owner's folder has a name nobody can guess who does not know the owner."""

    def __init__(self, folder: Path, cap_bytes: int = CAP_BYTES) -> None:
        """Removes what a process that was killed had begun to write into the folder, and says so."""
        self.folder = folder
        self._cap_bytes = cap_bytes
        for home in folder.glob("*/"):
            streamline.clear_temporary_files(home)

    def add(self, owner: str, order: Order, result: streamline.Result, receipt: streamline.Receipt) -> str:
        """Keep a finished video; returns the run's name. The oldest runs go when the cap is reached.

        It is there complete or not at all. Raises OSError or InputError where the disk does not take it.
        """
        made = time.time()
        name = time.strftime("%Y%m%d-%H%M%S", time.localtime(made)) + "-" + secrets.token_hex(3)
        home = self._home(owner)
        temporary = streamline.temporary_path(home / name)
        try:
            self._write(temporary, made, order, result, receipt)
            os.replace(temporary, home / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._prune(keep=home / name)
        return name

    def _write(
        self, temporary: Path, made: float, order: Order, result: streamline.Result, receipt: streamline.Receipt
    ) -> None:
        (temporary / FRAMES).mkdir(parents=True)
        for index, frame in enumerate(result.frames):
            frame.save(temporary / FRAMES / f"{index:04d}.png")
        streamline.export(result.frames, temporary / VIDEO, result.job.fps, receipt)
        thumbnail = result.frames[len(result.frames) // 2].convert("RGB")
        if max(thumbnail.size) > THUMBNAIL:
            thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
        thumbnail.save(temporary / THUMB, quality=90)
        if order.image is not None:
            order.image.save(temporary / PICTURE)
        entry = {"made": made, "settings": order.settings.to_dict(), "receipt": receipt.to_dict()}
        (temporary / ENTRY).write_text(json.dumps(entry, indent=2), encoding="utf-8")

    def runs(self, owner: str) -> list[Run]:
        """An owner's runs, the latest first; what cannot be read is left out."""
        home = self._home(owner)
        names = sorted((path.name for path in home.iterdir()), reverse=True) if home.is_dir() else []
        return [run for name in names if (run := self.get(owner, name)) is not None]

    def get(self, owner: str, name: str) -> Run | None:
        """One run of an owner, None if there is no such."""
        if not re.fullmatch(r"[0-9]{8}-[0-9]{6}-[0-9a-f]+", name):
            return None
        folder = self._home(owner) / name
        try:
            entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
            receipt = streamline.Receipt.from_dict(entry["receipt"])
            run = Run(name, folder, float(entry["made"]), Settings.from_dict(entry["settings"]), receipt)
            return run if run.video.is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def delete(self, owner: str, name: str) -> None:
        """Remove a run; without such a run, do nothing."""
        run = self.get(owner, name)
        if run is not None:
            shutil.rmtree(run.folder, ignore_errors=True)

    def clear(self, owner: str) -> None:
        """Remove all runs of an owner."""
        shutil.rmtree(self._home(owner), ignore_errors=True)

    def size_bytes(self, owner: str) -> int:
        return _size(self._home(owner))

    def _home(self, owner: str) -> Path:
        return self.folder / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def _prune(self, keep: Path) -> None:
        folders = sorted((path for path in self.folder.glob("*/*") if path != keep), key=lambda path: path.name)
        total = sum(map(_size, [*folders, keep]))
        for folder in folders:
            if total <= self._cap_bytes:
                break
            total -= _size(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
