"""Receipts in files: in the comment of an MP4 or a WebM, beside the pictures in a ZIP, or alone as JSON."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import zipfile
from pathlib import Path

import imageio_ffmpeg

from ..errors import InputError
from .receipt import LARGEST_BYTES, Receipt

RECEIPT = "receipt.json"  # its name in a ZIP
DEMUXERS = {".mp4": "mov", ".webm": "matroska"}  # named, so that no other kind of file is taken for one
LARGEST_FILE = 4 << 30  # bytes
SECONDS = 30  # to find the comment of a video, which is at its beginning or its end
SPECIAL = r"[=;#\\\n]"  # what ffmpeg's metadata files want a backslash before


def embed(receipt: Receipt, video: Path) -> None:
    """Write a receipt into the comment of an MP4 or a WebM, whose streams stay as they are. Raises OSError."""
    metadata, temporary = video.with_suffix(".txt"), video.with_stem(f"{video.stem}-draft")
    comment = re.sub(SPECIAL, r"\\\g<0>", receipt.to_json(indent=None))
    metadata.write_text(f";FFMETADATA1\ncomment={comment}\n", encoding="utf-8")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", video, "-i", metadata, "-map", "0"]
    command += ["-map_metadata", "1", "-codec", "copy"]
    command += ["-movflags", "+faststart"] if video.suffix.lower() == ".mp4" else []
    done = subprocess.run(
        [*command, temporary], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise OSError(f"ffmpeg failed: {next(iter(done.stderr.splitlines()), done.returncode)}")
    os.replace(temporary, video)


def read_receipt(path: str | os.PathLike) -> Receipt:
    """Return the receipt in a file that `export` wrote (.mp4, .webm, .zip), or in a .json.

    Raises InputError, one sentence, for any other file, whatever is in it.
    """
    path = Path(path)
    readers = {".mp4": _comment, ".webm": _comment, ".zip": _entry, ".json": _text}
    reader = readers.get(path.suffix.lower())
    try:
        if reader is None:
            raise InputError(f"A receipt is in a file that ends in {', '.join(readers)}, unlike {path.name[:80]!r}.")
        if not path.is_file():
            raise InputError(f"There is no file {path.name[:80]!r}.")
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path.name} is too large to look for a receipt in it.")
        return Receipt.from_json(reader(path))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{path.name[:80]!r} cannot be read: {reason}.") from error


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return _decoded(file.read(LARGEST_BYTES + 1))


def _entry(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(RECEIPT) as file:
            return _decoded(file.read(LARGEST_BYTES + 1))  # whatever it claims to be, no more is unpacked
    except KeyError as error:
        raise InputError(f"There is no receipt in {path.name}.") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:  # the middle ones: encrypted
        raise InputError(f"{path.name} is no ZIP that can be read.") from error


def _comment(path: Path) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-protocol_whitelist", "file,pipe"]
    command += ["-f", DEMUXERS[path.suffix.lower()], "-i", f"file:{path}", "-f", "ffmetadata", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        written = process.stdout.read(2 * LARGEST_BYTES)  # every character may have a backslash before it
        timer.cancel()
        process.kill()
    metadata = written.decode("utf-8", errors="replace")
    if not metadata.startswith(";FFMETADATA"):
        raise InputError(f"{path.name} is no video that can be read.")
    comment = re.search(r"^comment=((?:\\.|[^\\\n])*)", metadata, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    if comment is None:
        raise InputError(f"There is no receipt in {path.name}.")
    return re.sub(r"\\(.)", r"\1", comment[1], flags=re.DOTALL)


def _decoded(content: bytes) -> str:
    if len(content) > LARGEST_BYTES:
        raise InputError("This is too long for a receipt.")
    return content.decode("utf-8")
