"""streamline models: the models with a name."""

from __future__ import annotations

import argparse
import json

from ..families import naming
from .report import table


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("models", help="list the models with a name", allow_abbrev=False)
    parser.set_defaults(command=models)
    parser.add_argument("--json", action="store_true", help="print JSON")


def models(options: argparse.Namespace) -> str:
    """Return the models with a name, as a table or as JSON."""
    rows = [
        {
            "name": model.name,
            "task": model.task,
            "here": model.is_here,
            "source": model.source,
            "parts": dict(model.parts),
            "about": model.about,
        }
        for model in naming.models()
    ]
    if options.json:
        return json.dumps(rows, indent=2)
    lines = [("NAME", "TASK", "HERE", "ABOUT")]
    lines += [(row["name"], row["task"], "yes" if row["here"] else "no", row["about"]) for row in rows]
    return f"{table(lines)}\n\nAny Hugging Face hub id, or folder in diffusers' layout, of such a model is a name too."
