"""Plots of results. Each carries the digest of what it was drawn from, so that a stale one can be told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

NOTE = "Description"  # of the PNG, where the digest is
STYLES = {  # by the beginning of a method's name, up to the comma
    "plain": ("tab:gray", "o-"),
    "uniform": ("tab:green", "s-"),
    "streamlined": ("tab:blue", "D-"),
    "the paper's": ("tab:red", "^"),
    "DeepCache": ("tab:orange", "v"),
    "AYS": ("tab:purple", "P"),
}


def digest(found: Iterable[Mapping]) -> str:
    """Return a short name for what is in some results."""
    return hashlib.sha256(json.dumps(list(found), sort_keys=True).encode()).hexdigest()[:16]


def drawn_from(path: Path) -> str | None:
    """Return the digest of what a picture was drawn from."""
    with Image.open(path) as picture:
        return picture.info.get(NOTE)


def draw_frontier(found: Sequence[Mapping], path: Path) -> None:
    """Error against time for every model: the lower and the further left, the better."""
    figure = Figure(figsize=(5.5 * len(found), 3.8), dpi=110, layout="constrained")
    for axes, result in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _draw(axes, result)
    figure.savefig(path, metadata={NOTE: digest(found)})


def _draw(axes: Axes, result: Mapping) -> None:
    rows = [row for row in result["rows"] if row.get("latent_error", {}).get("mean")]
    for group, (colour, style) in STYLES.items():
        points = sorted(
            (row["share_of_original"], row["latent_error"]["mean"])
            for row in rows
            if row["name"].split(",")[0] == group
        )
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, markersize=5, label=group)
    axes.set(
        title=f"{result['model']}, {result['clips']} clips",
        xlabel="seconds, as a share of the original's",
        ylabel="relative error of the latents",
        yscale="log",
    )
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
