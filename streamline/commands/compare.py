"""streamline compare: one video made in every way, side by side."""

from __future__ import annotations

import argparse
import json

from ..errors import InputError
from ..output.comparison_report import report_html
from ..output.metrics import largest_difference
from ..output.receipt import Fidelity, Receipt
from ..output.video import check_path, comparison_sheet, save_picture, save_text
from ..running.naive import run_naive
from ..running.run import run
from .job_options import add_job_options, prepare
from .plan_options import add_plan_options, plan_of, tuned
from .report import Progress, took, versions


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("compare", help="one video made in every way, side by side", allow_abbrev=False)
    parser.set_defaults(command=compare)
    parser.add_argument("--out", default="comparison.png", help="the .png or .html to write (%(default)s)")
    add_job_options(parser)
    add_plan_options(parser, with_budget=True)


def compare(options: argparse.Namespace) -> str:
    """Make a video as it is, by a plan and clip by clip, for a picture of all frames; a page has only the first two."""
    output = check_path(options.out, ".png", ".html")
    plan = plan_of(options)
    if plan is None:
        raise InputError("compare makes the original in any case; --original is for generate.")
    pipe, job, image = prepare(options)
    plan = tuned(options, plan, pipe, job)
    makers = {
        "original": lambda progress: run(pipe, job, None, image, progress),
        "streamlined": lambda progress: run(pipe, job, plan, image, progress),
        "clip by clip": lambda progress: run_naive(pipe, job, image, on_event=progress),
    }
    is_page = output.suffix.lower() == ".html"
    if is_page:
        del makers["clip by clip"]
    results = {}
    for name, make in makers.items():
        with Progress() as progress:
            results[name] = make(progress)
    difference = largest_difference(results["original"].frames, results["streamlined"].frames)
    rows = {f"{name}: {took(result)}": result.frames for name, result in results.items()}
    if is_page:
        original, streamlined = results.values()
        receipt = Receipt.of(
            pipe,
            streamlined,
            image=image,
            fidelity=Fidelity.of(streamlined.frames, original.frames),
        )
        save_text(report_html(original, streamlined, receipt), output)
    else:
        save_picture(comparison_sheet(rows), output)

    if options.json:
        about = {"output": str(output), "model": options.model, "largest_difference": difference}
        runs = {name: result.to_dict() for name, result in results.items()}
        return json.dumps(about | {"runs": runs, "versions": versions()}, indent=2)
    lines = [*rows, f"largest difference of a pixel, original to streamlined: {difference} of 255", f"{output}"]
    return "\n".join(lines)
