"""streamline bench: measure the tables that README shows, and write them there."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import diffusers
import transformers
from diffusers import DiffusionPipeline

from ..benchmarks import results, tables
from ..benchmarks.cases import STEPS, world_cases
from ..benchmarks.measuring import Bench, measure
from ..benchmarks.render import cells, heading
from ..errors import InputError
from ..models.catalog import load
from .report import table

BUNDLED = "tiny-animatediff,tiny-svd"


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("bench", help="measure the tables that README shows", allow_abbrev=False)
    parser.set_defaults(command=bench)
    parser.add_argument("table", choices=[*tables.TABLES])
    parser.add_argument("--model", default=BUNDLED, help="names, hub ids or folders, of the bundled kind (%(default)s)")
    parser.add_argument("--clips", type=int, help="videos that every method makes (as the table needs)")
    parser.add_argument("--seeds", type=int, help="how many of them are of the same scene (as the table needs)")
    parser.add_argument("--steps", type=int, default=STEPS, help="denoising steps (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (the CUDA GPU if there is one)")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of results (assets/benchmarks)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all results into one file")


def bench(options: argparse.Namespace) -> str:
    """Measure a table for every model, going on where an earlier run was cut short."""
    if any(count is not None and count < 1 for count in (options.clips, options.seeds, options.steps)):
        raise InputError("--clips, --seeds and --steps are at least 1.")
    chosen = tables.TABLES[options.table]
    found = []
    for name in options.model.split(","):
        bench = _open(name, options)
        cases = world_cases(
            bench.pipe, options.clips or chosen.clips, options.seeds or chosen.seeds, steps=options.steps
        )
        path = options.out / f"{options.table}-{bench.model}.json"
        found.append(measure(bench, cases, chosen.methods(bench, cases), path))
    if options.json:
        results.save(options.json, {"results": found})
    return "\n\n".join(f"{heading(result)}\n{table(cells(result))}" for result in found)


def open_pipeline(model: str, device: str | None) -> DiffusionPipeline:
    """Load a pipeline in silence."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    pipe = load(model, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _open(model: str, options: argparse.Namespace) -> Bench:
    opened = partial(open_pipeline, model, options.device)
    return Bench(Path(model).name, opened(), opened, options.table)
