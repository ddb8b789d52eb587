"""streamline generate: make a video and write it."""

from __future__ import annotations

import argparse
import json

from ..output.receipt import Receipt
from ..output.video import VIDEOS, check_path, export
from ..planning.tuning import predict
from ..running.naive import run_naive
from ..running.run import run
from .job_options import add_job_options, prepare
from .plan_options import add_plan_options, plan_of, tuned
from .receipt_options import add_receipt_option, restore, tell_other_image, tell_other_model
from .report import Progress, took, versions


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("generate", help="make a video", allow_abbrev=False)
    parser.set_defaults(command=generate)
    parser.add_argument("--out", default="out.mp4", help="the .mp4, .webm, .gif or .zip to write (%(default)s)")
    add_receipt_option(parser)
    add_job_options(parser)
    how = add_plan_options(parser, with_budget=True)
    how.add_argument("--naive", action="store_true", help="make it clip by clip, to compare with")


def generate(options: argparse.Namespace) -> str:
    """Make a video and write it; returns what to print."""
    output = check_path(options.out, *VIDEOS)
    restored = restore(options)
    plan = plan_of(options)
    pipe, job, image = prepare(options, like=restored and restored.job)
    if restored is not None:
        tell_other_model(restored, options)
        if image is not None:
            tell_other_image(restored, image)
    plan = tuned(options, plan, pipe, job)
    predicted = None if options.budget is None else predict(pipe, job, plan)
    with Progress() as progress:
        if options.naive:
            result = run_naive(pipe, job, image, on_event=progress)
        else:
            result = run(pipe, job, plan, image, on_event=progress, prediction=predicted)
    receipt = Receipt.of(
        pipe,
        result,
        image=image,
        naive=options.naive,
        predicted=predicted,
        quality=None if options.budget is None else options.quality or "exact",
    )
    export(result.frames, output, job.fps, receipt)

    if options.json:
        method = "naive" if options.naive else "original" if options.original else "streamlined"
        about = {"output": str(output), "model": options.model, "method": method}
        return json.dumps(about | result.to_dict() | {"versions": versions()}, indent=2)
    return f"{output}: {job.num_frames} frames of {job.height}x{job.width}, {took(result)}"
