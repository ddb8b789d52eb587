"""streamline trace: what a published model needs at full size, found without its weights."""

from __future__ import annotations

import argparse
import json

from ..cost import tracing
from ..cost.tracing import Trace
from ..families.building import job_for, planned_names
from ..families.naming import DEFAULT_PLANNED
from .job_options import size_of
from .plan_options import add_plan_options, plan_of


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("trace", help="memory of a published model at full size", allow_abbrev=False)
    parser.set_defaults(command=trace)
    parser.add_argument("--model", choices=planned_names(), default=DEFAULT_PLANNED, help="(%(default)s)")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", default="576x1024", help="in pixels (%(default)s)")
    parser.add_argument("--frames", type=int, help="how many (as the model is made for)")
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def trace(options: argparse.Namespace) -> str:
    """Return what a published model needs at full size, as it is and by a plan, found without its weights."""
    plan = plan_of(options)
    height, width = size_of(options.size)
    given = {} if options.frames is None else {"num_frames": options.frames}
    job = job_for(options.model, {"height": height, "width": width} | given)
    size = {"height": job.height, "width": job.width, "num_frames": job.num_frames}
    plans = {"original": None} | ({} if plan is None else {"streamlined": plan})
    traces = {name: tracing.trace(options.model, **size, plan=plan) for name, plan in plans.items()}
    if options.json:
        rows = {name: {part: _summary(trace) for part, trace in parts.items()} for name, parts in traces.items()}
        return json.dumps({"model": options.model, **size, **rows, "plan": plan and plan.to_dict()}, indent=2)
    lines = [f"{options.model}, {job.num_frames} frames of {height}x{width} in float16, activations without weights"]
    for part in ("denoiser", "decoder"):
        for name, parts in traces.items():
            found, original = parts[part], traces["original"][part]
            lines.append(
                f"  {part:8}  {name:11}  peak {found.peak_bytes / 2**30:6.2f} GiB  {found.calls:6} operator calls"
                f"  ({found.peak_bytes / original.peak_bytes:.0%} of the memory,"
                f" {found.calls / original.calls:.2f}x the calls)"
            )
    return "\n".join(lines)


def _summary(trace: Trace) -> dict[str, int]:
    return {"peak_bytes": trace.peak_bytes, "weights_bytes": trace.weights_bytes, "calls": trace.calls}
