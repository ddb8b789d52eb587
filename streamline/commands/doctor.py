"""streamline doctor: what is wrong with this machine or this installation, and how to mend it."""

from __future__ import annotations

import argparse
import json

from ..doctor import examine

UNHEALTHY = 1


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("doctor", help="say what is wrong here and how to mend it", allow_abbrev=False)
    parser.set_defaults(command=doctor)
    parser.add_argument("--output", default=".", help="the folder that videos are written to (the current one)")
    parser.add_argument("--offline", action="store_true", help="ask the Hugging Face hub for nothing")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def doctor(options: argparse.Namespace) -> tuple[str, int]:
    """Everything that was looked at, with what to do where something is wrong; the status is 1 for a problem."""
    findings = examine(options.output, offline=options.offline)
    status = UNHEALTHY if any(finding.level == "problem" for finding in findings) else 0
    if options.json:
        return json.dumps([finding.to_dict() for finding in findings], indent=2), status
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:8} {finding.what}")
        lines += [f"{'':8} {finding.remedy}"] if finding.remedy else []
    return "\n".join(lines), status
