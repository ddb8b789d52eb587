"""streamline plan: the plan for a budget and what it will take, before anything is run."""

from __future__ import annotations

import argparse
import json

from ..plan import Plan
from ..planning.tuning import forecast
from ..prediction import BudgetError, Prediction
from ..sizes import format_bytes, parse_bytes
from .report import table
from .target_options import add_target_options, target_options_of

BAR = 30  # characters for the largest stage
WEIGHTS = {
    "resident": "on the device throughout",
    "model offload": "on the device for their stage",
    "group offload": "offloaded to host memory, on the device a few layers at a time",
}


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("plan", help="the plan for a budget, and what it will take", allow_abbrev=False)
    parser.set_defaults(command=plan)
    add_target_options(parser)
    parser.add_argument("--budget", metavar="SIZE", help="like 8GiB (what is free on the device)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def plan(options: argparse.Namespace) -> str:
    """Tune a plan; a job that does not fit is an answer too, with the nearest jobs that do."""
    if options.budget is not None:
        parse_bytes(options.budget)  # refused before a model is loaded
    model, job, where, dtype = target_options_of(options)
    try:
        found = forecast(model, job, options.quality, where, dtype).choose(options.budget)
    except BudgetError as error:
        return _too_small(error, options)
    head = {"feasible": True, "model": options.model, "job": job.to_dict(), "quality": options.quality}
    if options.json:
        answer = head | found.prediction.to_dict()
        return json.dumps(answer | {"plan": found.plan.to_dict(), "reasons": list(found.plan.reasons)}, indent=2)
    title = (
        f"{options.model}, {job.num_frames} frames of {job.height}x{job.width} in {job.num_inference_steps} steps, "
        f"{options.quality}, within {format_bytes(found.plan.budget_bytes)}:"
    )
    return "\n\n".join(
        [title, stages_table(found.prediction), _slices_table(found.plan), "\n".join(found.plan.reasons)]
    )


def stages_table(prediction: Prediction) -> str:
    """Return a row with a bar for every stage: weights #, activations =, kept features +, workspace and context -."""
    rows = [("STAGE", "TIMES", "SECONDS", "PEAK", "WEIGHTS", "ACTIVATIONS", "")]
    for stage in prediction.stages:
        parts = (
            ("#", stage.weights_bytes),
            ("=", stage.activation_bytes),
            ("+", stage.kept_bytes),
            ("-", stage.workspace_bytes + stage.context_bytes),
        )
        bar = "".join(sign * round(BAR * size / prediction.peak_bytes) for sign, size in parts)
        sizes = map(format_bytes, (stage.peak_bytes, stage.weights_bytes, stage.activation_bytes))
        rows.append((stage.name, str(stage.count), f"{stage.seconds:.1f}", *sizes, bar))
    summary = (
        f"peak {format_bytes(prediction.peak_bytes)} (within {prediction.memory_band:.0%}), "
        f"{prediction.seconds:.1f} s (within {prediction.seconds_band:.0%}); {prediction.tag}."
    )
    return "\n".join([table(rows), f"# weights  = activations  + kept features  - workspace, context\n{summary}"]) + (
        f"\n{prediction.note}" if prediction.note else ""
    )


def _slices_table(plan: Plan) -> str:
    lines = []
    for name, slicing in (("denoiser", plan.denoiser), ("decoder", plan.decoder)):
        blocks = [f"{block} {one.frames}/{one.pixels}" for block, one in slicing if max(one.frames, one.pixels) > 1]
        lines.append(f"{name} slices of frames/pixels: {', '.join(blocks) or 'none'}")
    return "\n".join([*lines, f"guidance {plan.guidance}, weights {WEIGHTS[plan.residency]}"])


def _too_small(error: BudgetError, options: argparse.Namespace) -> str:
    smallest = error.smallest
    if options.json:
        alternatives = [{"job": job.to_dict(), **prediction.to_dict()} for job, prediction in error.alternatives]
        answer = {"feasible": False, "model": options.model, "smallest_budget_bytes": error.smallest_bytes}
        answer |= smallest.prediction.to_dict() | {"plan": smallest.plan.to_dict(), "reasons": [str(error)]}
        return json.dumps(answer | {"alternatives": alternatives}, indent=2)
    return "\n\n".join([f"Not feasible: {error}", "The smallest there is:", stages_table(smallest.prediction)])
