"""Frames to look at: a video that every browser plays, or all frames on one picture."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from ..files import atomic_write
from .receipt import Receipt
from .receipt_files import RECEIPT, embed

SMALLEST_SIDE = 384  # pixels; smaller videos are shown enlarged, or players would blur them
CAPTION = 32  # pixels of height for a line of text
CONSTANT_RATE = 16  # quality: lower is better; in H.264 below 18 looks like the source
LARGEST_RATE = 51
# Colours are converted as the file's tags then say, so that players show the ones that were made.
TAGS = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
COLOURS = ["-vf", "scale=out_color_matrix=bt709", *TAGS]
CODECS = {
    ".mp4": ("libx264", ["-movflags", "+faststart"]),
    ".webm": ("libvpx-vp9", ["-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1"]),
}
VIDEOS = (*CODECS, ".gif", ".zip")


def export(
    frames: Sequence[Image.Image],
    path: str | os.PathLike,
    fps: int = 8,
    receipt: Receipt | None = None,
    crf: int = CONSTANT_RATE,
) -> Path:
    """Write frames (RGB, all of one size) in the format that the path's suffix names.

    .mp4 (H.264), .webm (VP9) and .gif enlarge small frames by a whole factor, kept sharp; .zip holds them as PNGs.
    receipt: kept in the file, but for a GIF; `read_receipt` finds it there.
    crf: quality of .mp4 and .webm, 0 to 51, lower is better.

    The file appears complete or not at all. Raises InputError for a path that cannot be written.
    """
    path = check_path(path, *VIDEOS)
    if isinstance(crf, bool) or not isinstance(crf, int) or not 0 <= crf <= LARGEST_RATE:
        raise InputError(f"The crf must be a whole number from 0 to {LARGEST_RATE}, not {crf!r}.")
    if not frames:
        raise InputError("A video needs at least one frame.")
    if len({frame.size for frame in frames}) > 1:
        raise InputError("The frames of a video must be of one size.")
    suffix = path.suffix.lower()
    with atomic_write(path) as partial:
        if suffix == ".zip":
            _write_zip(frames, partial, receipt)
        elif suffix == ".gif":
            first, *others = [enlarge(frame.convert("RGB")) for frame in frames]
            first.save(partial, save_all=True, append_images=others, duration=1000 / fps, loop=0)
        else:
            _write_video(frames, partial, fps, crf)
            if receipt is not None:
                embed(receipt, partial)
    return path


def _write_video(frames: Sequence[Image.Image], path: Path, fps: int, crf: int) -> None:
    codec, parameters = CODECS[path.suffix.lower()]
    writer = imageio.get_writer(
        path,
        format="FFMPEG",
        fps=fps,
        codec=codec,
        quality=None,
        pixelformat="yuv420p",
        macro_block_size=2,
        output_params=["-crf", str(crf), *COLOURS, *parameters],
    )
    with writer:
        for frame in frames:
            writer.append_data(_even(np.asarray(enlarge(frame.convert("RGB")))))
    _check_written(path, len(frames))


def _check_written(path: Path, count: int) -> None:
    """Raise OSError unless all frames are there: where the disk is full ffmpeg may end without a word."""
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(path)
    except RuntimeError:  # nothing in it can be read
        written = 0
    if written != count:
        raise OSError(f"only {written} of {count} frames were written; the disk may be full")


def _write_zip(frames: Sequence[Image.Image], path: Path, receipt: Receipt | None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for index, frame in enumerate(frames):
            with archive.open(f"{index:04}.png", "w") as file:
                frame.convert("RGB").save(file, "PNG")
        if receipt is not None:
            archive.writestr(RECEIPT, receipt.to_json())


def save_picture(picture: Image.Image, path: str | os.PathLike) -> Path:
    """Write a PNG, complete or not at all. Raises InputError for a path that cannot be written."""
    path = check_path(path, ".png")
    with atomic_write(path) as partial:
        picture.save(partial, optimize=True)
    return path


def save_text(text: str, path: str | os.PathLike) -> Path:
    """Write a web page, complete or not at all. Raises InputError for a path that cannot be written."""
    path = check_path(path, ".html")
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def check_path(path: str | os.PathLike, *suffixes: str) -> Path:
    """Return the path of a file to be written; raises InputError if it cannot be, before any work is done."""
    try:
        path = Path(path).expanduser()
        if path.suffix.lower() not in suffixes:
            raise InputError(f"The file's name must end in {' or '.join(suffixes)}, unlike {path.name!r}.")
        if not path.parent.is_dir():
            raise InputError(f"There is no folder {path.parent} to write {path.name} to.")
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"{path} cannot be written.")
        path.exists()  # asks the system, which refuses a name that is too long
    except InputError:
        raise
    except (RuntimeError, OSError, ValueError) as error:  # no such user's home, no permission, a NUL
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise InputError(f"The file cannot be written: {reason}.") from error
    return path


def contact_sheet(frames: Sequence[Image.Image], columns: int = 8, gap: int = 4) -> Image.Image:
    """Return all frames on one white picture, row by row, `gap` pixels apart, enlarged like a video."""
    if not frames:
        raise InputError("A contact sheet needs at least one frame.")
    tiles = [enlarge(frame, smallest=128) for frame in frames]
    width, height = tiles[0].size
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * (width + gap), index // columns * (height + gap)))
    return sheet


def comparison_sheet(rows: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Return a contact sheet for every caption, one below the other."""
    sheets = {caption: contact_sheet(frames) for caption, frames in rows.items()}
    font = ImageFont.load_default(size=CAPTION * 5 // 8)
    width = max(sheet.width for sheet in sheets.values())
    picture = Image.new("RGB", (width, sum(sheet.height + CAPTION for sheet in sheets.values())), "white")
    top = 0
    for caption, sheet in sheets.items():
        ImageDraw.Draw(picture).text((0, top + CAPTION // 2), caption, "black", font, anchor="lm")
        picture.paste(sheet, (0, top + CAPTION))
        top += CAPTION + sheet.height
    return picture


def enlarge(frame: Image.Image, smallest: int = SMALLEST_SIDE) -> Image.Image:
    """Return the frame, each pixel a square of as many as bring its shorter side to about `smallest`."""
    factor = max(1, smallest // min(frame.size))
    return frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)


def _even(pixels: np.ndarray) -> np.ndarray:
    """(height, width, 3) with odd sides one longer, by the last row or column again: yuv420p halves both."""
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
