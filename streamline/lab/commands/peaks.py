"""streamline peaks: predicted memory beside what plans really hold."""

from __future__ import annotations

import argparse
import json
from functools import partial

from ...commands.job_options import add_job_options, prepare
from ...commands.report import table
from ...errors import InputError
from ...sizes import format_bytes
from ..peaks import Peak, peaks
from ..timing import CHECKED


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("peaks", help="predicted memory beside what runs hold", allow_abbrev=False)
    parser.set_defaults(command=run)
    add_job_options(parser)


def run(options: argparse.Namespace) -> str:
    """Run several plans on the CPU, each in a fresh process."""
    if options.device not in (None, "cpu"):
        raise InputError("Memory is checked on the CPU, where every tensor can be counted; leave --device out.")
    options.device = "cpu"
    found = list(peaks(partial(prepare, options), CHECKED))
    if options.json:
        return json.dumps({"model": options.model, "plans": [_row(one) for one in found]}, indent=2)
    rows = [("PLAN", "PREDICTED", "TENSORS", "RATIO", "PROCESS", "BEFORE THE RUN")]
    for one in found:
        sizes = (one.process_bytes, one.started_bytes)
        process = ("-" if size is None else format_bytes(size) for size in sizes)
        figures = (format_bytes(one.predicted_bytes), format_bytes(one.live_bytes), f"{one.ratio:.3f}")
        rows.append((one.name, *figures, *process))
    ratios = [one.ratio for one in found]
    return f"{table(rows)}\npredicted to counted: {min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} plans"


def _row(peak: Peak) -> dict:
    return {
        "name": peak.name,
        "plan": peak.plan.to_dict(),
        "predicted_peak_bytes": peak.predicted_bytes,
        "live_peak_bytes": peak.live_bytes,
        "process_peak_bytes": peak.process_bytes,
        "process_started_bytes": peak.started_bytes,
        "ratio": peak.ratio,
    }
