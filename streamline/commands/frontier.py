"""streamline frontier: time against memory, every plan worth choosing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .. import tuning
from ..planner import Candidate
from ..sizes import format_bytes
from ..video import check_path
from .report import table
from .situation_options import add_situation_options, situation_of


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("frontier", help="time against memory of all good plans", allow_abbrev=False)
    parser.set_defaults(command=frontier)
    add_situation_options(parser)
    parser.add_argument("--out", metavar="PNG", help="draw it too")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with the plans")


def frontier(options: argparse.Namespace) -> str:
    """List the plans from the fastest to the smallest."""
    output = None if options.out is None else check_path(options.out, ".png")
    model, job, where, dtype = situation_of(options)
    found = tuning.frontier(model, job, options.quality, where, dtype)
    title = f"{options.model}, {job.num_frames} frames of {job.height}x{job.width}, {options.quality}"
    if output is not None:
        draw(found, title, output)
    if options.json:
        points = [one.prediction.to_dict() | {"plan": one.plan.to_dict()} for one in found]
        return json.dumps({"model": options.model, "job": job.to_dict(), "points": points}, indent=2)
    rows = [("PEAK", "SECONDS", "GUIDANCE", "RESIDENT", "TIGHTEST STAGE")]
    for one in found:
        worst = max(one.prediction.stages, key=lambda stage: stage.peak_bytes)
        peak, seconds = format_bytes(one.prediction.peak_bytes), f"{one.prediction.seconds:.1f}"
        rows.append((peak, seconds, one.plan.guidance, one.plan.residency, worst.name))
    return "\n".join([f"{title}:", table(rows), *([str(output)] if output else [])])


def draw(points: tuple[Candidate, ...], title: str, path: Path) -> None:
    """A step curve: what a budget buys."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    memory = [one.prediction.peak_bytes / 2**30 for one in points]
    seconds = [one.prediction.seconds for one in points]
    axes.step(memory[::-1], seconds[::-1], where="post", color="tab:blue")
    axes.plot(memory, seconds, "o", color="tab:blue", markersize=4)
    axes.set(xlabel="budget, GiB", ylabel="seconds, predicted", title=title, ylim=(0, None), xscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(path)
