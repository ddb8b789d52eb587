"""A calibration as a picture: how alike the steps are, and what every way to be faster costs and loses."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure

from ...planning.calibrations import Calibration, Option

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")  # of cache points, in the order they were measured in


def draw(found: Calibration, path: Path) -> None:
    """Draw two plots. Left: the step by step similarity of the paper's feature.
    Right: error against the share of steps' time."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    image = left.imshow(found.similarity, origin="lower", cmap="viridis")
    left.set(title="similarity of the kept feature", xlabel="step", ylabel="step")
    figure.colorbar(image, ax=left)
    colours = dict(zip((cost.cut for cost in found.costs), cycle(COLOURS), strict=False))
    fractions = {cost.cut: cost.predicted for cost in found.costs}
    groups: dict[str, list[Option]] = {}
    for option in found.options:
        name = option.rehash.cut if option.rehash else "fewer steps"
        if option.sampler is not None and option.sampler.sigmas is not None:
            name = "Align Your Steps"
        groups.setdefault(name, []).append(option)
    for name, options in groups.items():
        points = sorted((_fraction(option, fractions, found.steps), option.error) for option in options)
        colour = colours.get(name, "black" if name == "fewer steps" else "gray")
        right.plot(
            *zip(*points, strict=True), "o-" if name in colours else "s--", markersize=4, color=colour, label=name
        )
    right.set(
        title=f"worst of {found.samples} samples",
        xlabel="time of all steps, share of the original's",
        ylabel="error of the final latents",
        yscale="log",
    )
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{found.model}, {found.steps} steps of {found.scheduler.split()[0]}")
    figure.savefig(path)


def _fraction(option: Option, fractions: dict[str, float], steps: int) -> float:
    if option.sampler is not None:
        return option.sampler.steps / steps
    full = len(option.rehash.full_steps)
    return (full + (steps - full) * fractions[option.rehash.cut]) / steps
