"""streamline frontier: time against memory, every plan worth choosing."""

from __future__ import annotations

import argparse
import json

from ..output.drawing import draw_frontier
from ..output.video import check_path
from ..planning.tuning import forecast
from ..sizes import format_bytes
from .report import table
from .target_options import add_target_options, target_options_of


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("frontier", help="time against memory of all good plans", allow_abbrev=False)
    parser.set_defaults(command=frontier)
    add_target_options(parser)
    parser.add_argument("--out", metavar="PNG", help="draw it too")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with the plans")


def frontier(options: argparse.Namespace) -> str:
    """List the plans from the fastest to the smallest."""
    output = None if options.out is None else check_path(options.out, ".png")
    model, job, where, dtype = target_options_of(options)
    known = forecast(model, job, options.quality, where, dtype)
    found = known.frontier()
    title = f"{options.model}, {job.num_frames} frames of {job.height}x{job.width}, {options.quality}"
    if output is not None:
        draw_frontier(known, title, output)
    if options.json:
        points = [one.prediction.to_dict() | {"plan": one.plan.to_dict()} for one in found]
        return json.dumps({"model": options.model, "job": job.to_dict(), "points": points}, indent=2)
    rows = [("PEAK", "SECONDS", "GUIDANCE", "RESIDENT", "TIGHTEST STAGE")]
    for one in found:
        worst = max(one.prediction.stages, key=lambda stage: stage.peak_bytes)
        peak, seconds = format_bytes(one.prediction.peak_bytes), f"{one.prediction.seconds:.1f}"
        rows.append((peak, seconds, one.plan.guidance, one.plan.residency, worst.name))
    return "\n".join([f"{title}:", table(rows), *([str(output)] if output else [])])
