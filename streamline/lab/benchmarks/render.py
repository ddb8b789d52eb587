"""Results as tables: rows of text, for the terminal and for README alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MIB = 2**20
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and what a row of a result says there, "" where it says nothing."""

    heading: str
    text: Callable[[Mapping], str]


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _memory(count: str) -> Callable[[Mapping], str]:
    def text(row: Mapping) -> str:
        value = (row["memory"] or {}).get(count)
        return NOTHING if value is None else f"{value / MIB:.1f}"

    return text


def _psnr(row: Mapping) -> str:
    if row["method"] == {"kind": "original", "steps": None}:
        return NOTHING
    return "same" if row["psnr"] is None else f"{row['psnr']:.1f}"


def _agreed(label: str) -> Callable[[Mapping], str]:
    return lambda row: _percent(row["agreement"][label] if "agreement" in row else None)


NAME = Column("method", lambda row: row["name"])
TENSORS = Column("peak, MiB", _memory("tensor_bytes"))
PROCESS = Column("process, MiB", _memory("process_bytes"))
SECONDS = Column("s", lambda row: f"{row['seconds']:.2f}")
DENOISE = Column("denoise", lambda row: f"{row['denoise_seconds']:.2f}")
DECODE = Column("decode", lambda row: f"{row['decode_seconds']:.2f}")
SHARE = Column("of the original's", lambda row: f"{row['share_of_original']:.2f}x")
PSNR = Column("PSNR, dB", _psnr)
SSIM = Column("SSIM", lambda row: _number(row["ssim"], ".3f"))
LATENT = Column("latent error", lambda row: _number(row.get("latent_error", {}).get("mean"), ".4f"))
SEEDS = Column("± over seeds", lambda row: _number(row.get("latent_error", {}).get("over_seeds"), ".4f"))
WORST = Column("worst", lambda row: _number(row.get("latent_error", {}).get("worst"), ".4f"))
FRECHET = Column("Fréchet", lambda row: _number(row.get("frechet_distance"), ".0f"))
AGREED = Column("as asked", _agreed("mean"))
MOTION = Column("motion as asked", _agreed("motion"))
FVD = Column("FVD", lambda row: _number(row.get("fvd"), ".0f"))
CLIP = Column("CLIP score", lambda row: _number(row.get("clip_score"), ".2f"))
JUMP = Column("border jump", lambda row: _number(row["border_jump"], ".2f"))


COLUMNS = {
    "table1": (
        NAME,
        TENSORS,
        PROCESS,
        SECONDS,
        DENOISE,
        DECODE,
        SHARE,
        PSNR,
        SSIM,
        FRECHET,
        AGREED,
        MOTION,
        JUMP,
        FVD,
        CLIP,
    ),
    "table2": (NAME, SECONDS, SHARE, PSNR, SSIM, LATENT, SEEDS, FRECHET, AGREED, MOTION, FVD, CLIP),
    "frontier": (NAME, SECONDS, SHARE, PSNR, SSIM, LATENT, SEEDS, WORST, FRECHET, AGREED, MOTION, FVD, CLIP),
    "ablation": (NAME, TENSORS, SECONDS, DENOISE, DECODE, SHARE, PSNR),
    "speed": (NAME, TENSORS, SECONDS, DENOISE, DECODE, SHARE, PSNR),
}


def cells(result: Mapping, columns: Sequence[Column] | None = None) -> list[tuple[str, ...]]:
    """Return the rows of a result, headings first; columns in which no row says anything are left out."""
    columns = COLUMNS[result["table"]] if columns is None else columns
    said = [column for column in columns if any(column.text(row) != NOTHING for row in result["rows"])]
    headings = tuple(column.heading for column in said)
    return [headings, *(tuple(column.text(row) for column in said) for row in result["rows"])]


def heading(result: Mapping) -> str:
    """Return what a result is of, in a line."""
    job, device = result["job"], result["device"]
    clips = f"{result['clips']} clips" + (
        f" of {result['scenes']} scenes" if result["scenes"] < result["clips"] else ""
    )
    threads = f", {device['threads']} thread{'s' if device['threads'] > 1 else ''}" if "threads" in device else ""
    return (
        f"{result['model']}, {job['num_frames']} frames of {job['height']}x{job['width']}, "
        f"{job['num_inference_steps']} steps, {clips} a method, on {device['name']}{threads}, {result['date']}"
    )


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, headings first, as a table of Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
