"""streamline bench: measure the tables that README shows, and write them there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from ...commands.job_options import size_of
from ...errors import InputError
from ...models.loading import device_for, load
from ..benchmarks import floors, gpu, modelled, paper, readme, results, tables, traced
from ..benchmarks.cases import STEPS, plain_cases, world_cases
from ..benchmarks.field_scores import has_fvd
from ..benchmarks.measuring import Bench, measure
from ..benchmarks.random_pipelines import MIDDLE, random_pipeline

BUNDLED = ("tiny-animatediff", "tiny-svd")
MIDDLE_MODELS = {"middle-animatediff": "animatediff", "middle-svd": "svd"}  # of random weights, with fewer channels
MIDDLE_SIZE, MIDDLE_STEPS, MIDDLE_CLIPS = (256, 256), 3, 3
OTHERS = ("modelled", "traced", "memory", "gpu", "all", "readme")


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("bench", help="measure the tables that README shows", allow_abbrev=False)
    parser.set_defaults(command=bench)
    parser.add_argument("table", choices=[*tables.TABLES, *OTHERS], help="; readme writes what was measured there")
    parser.add_argument("--model", help=f"bundled models, or {', '.join(MIDDLE_MODELS)} (as the table needs)")
    parser.add_argument("--clips", type=int, help="videos that every method makes (as the table needs)")
    parser.add_argument("--seeds", type=int, help="how many of them are of the same scene (as the table needs)")
    parser.add_argument("--steps", type=int, help=f"denoising steps ({STEPS}; of middle models {MIDDLE_STEPS})")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", help="in pixels; the judge knows 64x64 only (64x64)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (the CUDA GPU if there is one)")
    parser.add_argument("--clip-model", help="folder or hub id of a CLIP model, to score prompts by (no such score)")
    parser.add_argument("--card", default=paper.CARD, help="what modelled figures are for (%(default)s)")
    parser.add_argument("--minutes", type=float, default=gpu.MINUTES, help="of gpu at most (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="gpu: small networks, on any device")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of results (assets/benchmarks)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all results into one file")


def bench(options: argparse.Namespace) -> str:
    """Measure a table for every model, going on where an earlier run was cut short; says it in Markdown."""
    if any(count is not None and count < 1 for count in (options.clips, options.seeds, options.steps)):
        raise InputError("--clips, --seeds and --steps are at least 1.")
    if options.table == "readme":
        return "\n".join(map(str, readme.write(folder=options.out)))
    wanted = [*tables.TABLES, "modelled", "traced", "memory"] if options.table == "all" else [options.table]
    if options.table == "table1":  # its full-size rows
        wanted.append("modelled")
    found = [result for table in wanted for result in _results(table, options)]
    if options.json:
        results.save(options.json, {"results": found})
    note = "" if has_fvd() else "Fréchet video distances are not computed: pip install 'streamline[scores]'."
    blocks = [readme.BLOCKS[result["table"]]([result]) for result in found]
    return "\n\n".join([*blocks, *filter(None, [note])])


def _results(table: str, options: argparse.Namespace) -> Iterator[dict]:
    match table:
        case "modelled":
            yield modelled.model_all(options.out / "modelled.json", options.card)
        case "traced":
            yield traced.trace_all(options.out / "traced.json")
        case "memory":
            yield floors.find_floors(options.out / "memory.json", options.card)
        case "gpu":
            device, path = options.device or "cuda", options.out / "gpu.json"
            yield gpu.measure_gpu(path, device, rehearse=options.rehearse, minutes=options.minutes)
        case _:
            models = options.model.split(",") if options.model else _models(table)
            for model in models:
                yield _measure(table, model, options)


def _models(table: str) -> tuple[str, ...]:
    return (*BUNDLED, *MIDDLE_MODELS) if table == "speed" else BUNDLED


def _measure(table: str, model: str, options: argparse.Namespace) -> dict:
    chosen = tables.TABLES[table]
    opened = partial(open_pipeline, model, options.device)
    on = Bench(Path(model).name, opened(), opened, table, options.clip_model)
    size = None if options.size is None else size_of(options.size)
    if model in MIDDLE_MODELS:
        cases = plain_cases(on.pipe, options.clips or MIDDLE_CLIPS, options.steps or MIDDLE_STEPS, size or MIDDLE_SIZE)
    else:
        clips, seeds = options.clips or chosen.clips, options.seeds or chosen.seeds
        cases = world_cases(on.pipe, clips, seeds, options.steps or STEPS, size)
    path = options.out / f"{table}-{on.model}.json"
    return measure(on, cases, chosen.methods(on, cases), path, with_memory=chosen.with_memory)


def open_pipeline(model: str, device: str | None) -> DiffusionPipeline:
    """Load a pipeline, or make one of middle size, in silence."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    if model in MIDDLE_MODELS:
        return random_pipeline(MIDDLE_MODELS[model], device_for(device), torch.float32, MIDDLE)
    pipe = load(model, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe
