"""streamline timing: improve the predicted seconds on this device, and show how good they are."""

from __future__ import annotations

import argparse
import json

from ...commands.job_options import add_job_options, prepare
from ...commands.report import table
from ..timing import Timing, calibrate


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "timing", help="learn how long plans take here, and check predictions", allow_abbrev=False
    )
    parser.set_defaults(command=run)
    add_job_options(parser)


def run(options: argparse.Namespace) -> str:
    """Time plans on a model, learn from some and predict the others."""
    pipe, job, image = prepare(options)
    timings = calibrate(pipe, job, image)
    if options.json:
        answer = {"model": options.model, "job": job.to_dict(), "plans": [_row(one) for one in timings]}
        return json.dumps(answer, indent=2)
    rows = [("PLAN", "STEP", "PREDICTED", "DECODE", "PREDICTED", "RATIO OF 25 STEPS AND DECODE")]
    for one in timings:
        seconds = (one.step, one.predicted_step, one.decode, one.predicted_decode)
        rows.append((one.name, *(f"{value:.3f} s" for value in seconds), f"{one.ratio:.2f}"))
    ratios = [one.ratio for one in timings]
    return f"{table(rows)}\npredicted to measured: {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} plans"


def _row(timing: Timing) -> dict:
    return {
        "name": timing.name,
        "plan": timing.plan.to_dict(),
        "step_seconds": timing.step,
        "predicted_step_seconds": timing.predicted_step,
        "decode_seconds": timing.decode,
        "predicted_decode_seconds": timing.predicted_decode,
        "ratio": timing.ratio,
    }
