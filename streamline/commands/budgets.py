"""streamline budgets: what fits which card, for all published models."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from ..errors import InputError
from ..families.building import job_for
from ..families.naming import DEFAULT_BUDGETED
from ..hardware.cards import emulate
from ..job import Job
from ..planning.planner import QUALITIES, format_up
from ..planning.tuning import forecast
from ..prediction import BudgetError, Candidate
from ..sizes import format_bytes, parse_bytes
from .job_options import size_of
from .report import table

MODELS = ",".join(DEFAULT_BUDGETED)
SIZES = "512x512,576x1024"
BUDGETS = "4.5GiB,6GiB,8GiB,10GiB,12GiB,16GiB,24GiB,40GiB"


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("budgets", help="what fits which card, for published models", allow_abbrev=False)
    parser.set_defaults(command=budgets)
    parser.add_argument("--models", default=MODELS, help="(%(default)s)")
    parser.add_argument("--sizes", default=SIZES, help="(%(default)s)")
    parser.add_argument("--budgets", default=BUDGETS, help="(%(default)s)")
    parser.add_argument("--quality", choices=QUALITIES, default="exact", help="(%(default)s)")
    parser.add_argument("--emulate", metavar="CARD", default="RTX 3060", help="the card all run on (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def budgets(options: argparse.Namespace) -> str:
    """Tune every model at every size to every budget, on emulated cards."""
    sizes = [size_of(text) for text in options.sizes.split(",")]
    limits = [parse_bytes(text) for text in options.budgets.split(",")]
    where, rows = emulate(options.emulate), []
    for model in options.models.split(","):
        for height, width in sizes:
            job = replace(job_for(model, {}), height=height, width=width)
            known = forecast(model, job, device=where)
            for limit in limits:
                try:
                    found: Candidate | BudgetError = known.choose(limit, options.quality)
                except BudgetError as error:
                    found = error
                rows.append((model, job, limit, found))
    if not rows:
        raise InputError("Name at least one model, size and budget.")
    if options.json:
        return json.dumps({"rows": [_row(*row) for row in rows]}, indent=2)
    lines = [("MODEL", "VIDEO", "BUDGET", "PEAK", "SECONDS", "HOW")]
    for model, job, limit, found in rows:
        video = f"{job.num_frames} x {job.height}x{job.width}"
        if isinstance(found, BudgetError):
            lines.append((model, video, format_bytes(limit), "-", "-", f"needs {format_up(found.smallest_bytes)}"))
        else:
            prediction = found.prediction
            peak, seconds = format_bytes(prediction.peak_bytes), f"{prediction.seconds:.0f}"
            lines.append((model, video, format_bytes(limit), peak, seconds, how(found)))
    return table(lines)


def how(found: Candidate) -> str:
    """Return the choices of a plan in a line: slices of frames/pixels by block."""
    plan = found.plan
    parts = [f"guidance {plan.guidance}", f"weights {plan.residency}"]
    for name, slicing in (("denoiser", plan.denoiser), ("decoder", plan.decoder)):
        blocks = [f"{block} {one.frames}/{one.pixels}" for block, one in slicing if max(one.frames, one.pixels) > 1]
        parts.append(f"{name} {' '.join(blocks) or 'whole'}")
    return "; ".join(parts)


def _row(model: str, job: Job, limit: int, found: Candidate | BudgetError) -> dict:
    row = {"model": model, "job": job.to_dict(), "budget_bytes": limit}
    if isinstance(found, BudgetError):
        return row | {"feasible": False, "smallest_budget_bytes": found.smallest_bytes, "reasons": [str(found)]}
    prediction = found.prediction.to_dict()
    return row | {"feasible": True, **prediction, "plan": found.plan.to_dict(), "reasons": list(found.plan.reasons)}
