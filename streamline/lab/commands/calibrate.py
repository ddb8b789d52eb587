"""streamline calibrate: measure what a model loses by being faster, so that plans choose the least."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm

from ...commands.job_options import add_job_options, prepare
from ...commands.report import table
from ...errors import InputError
from ...job import Job
from ...planning.calibrations import Calibration, keep
from ...registry import family_of
from ..recipes import world
from ..recipes.sampling import to_image
from ..reuse.calibrating import Progress, calibrate
from ..reuse.measuring import CalibrationSample
from ..reuse.picture import draw

SCENES = 20_000_000  # the first scene to calibrate on; none of them is trained or measured on


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "calibrate", help="find where a model's steps can be reused or left out, and what it costs", allow_abbrev=False
    )
    parser.set_defaults(command=run)
    add_job_options(parser)
    parser.add_argument("--scheduler", help="a diffusers scheduler to take in place of the model's own")
    parser.add_argument("--seeds", type=int, default=8, help="how many videos to measure on (%(default)s)")
    parser.add_argument("--cuts", nargs="+", metavar="POINT", help="cache points to reuse at (all the model has)")
    parser.add_argument("--out", metavar="FOLDER", help="where to write (the cache, where plans look for it)")


def run(options: argparse.Namespace) -> str:
    """Calibrate a model; returns what was found."""
    if options.seeds < 1:
        raise InputError(f"--seeds must be at least 1, not {options.seeds}.")
    pipe, job, image = prepare(options)
    if options.scheduler is not None:
        pipe.scheduler = _scheduler(options.scheduler).from_config(pipe.scheduler.config)
    samples = samples_of(pipe, job, image, options.seeds, is_given=options.motion_bucket_id is not None)
    with tqdm(desc="calibrating", unit="run", file=sys.stderr) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_description(progress.doing)
            bar.update(progress.done - bar.n)

        found = calibrate(pipe, samples, options.cuts, on_progress=show)
    path = keep(found, None if options.out is None else Path(options.out))
    picture = path.with_suffix(".png")
    draw(found, picture)
    if options.json:
        return json.dumps({"output": str(path), "picture": str(picture), **found.to_dict()}, indent=2)
    return f"{_tables(found)}\n{path}\n{picture}"


def samples_of(
    pipe: DiffusionPipeline, job: Job, image: Image.Image | None, count: int, *, is_given: bool = False
) -> list[CalibrationSample]:
    """Return videos to calibrate on: the job with as many seeds, or of scenes where it has neither prompt nor image.

    is_given: whether the job's motion bucket was asked for; otherwise it is that of the scene.
    """
    starts_from_image = family_of(pipe).task_of(pipe) == "image-to-video"
    samples = []
    for index in range(count):
        one = replace(job, seed=(job.seed + index) % 2**32)
        if (image if starts_from_image else job.prompt) or (not starts_from_image and image is not None):
            samples.append(CalibrationSample(one, image))
        elif starts_from_image:
            scene = replace(world.image_scene(SCENES + index), fps=world.USUAL_FPS)
            if not is_given:
                one = replace(one, motion_bucket_id=world.motion_bucket(scene))
            samples.append(CalibrationSample(one, to_image(world.draw(scene)[0])))
        else:
            samples.append(CalibrationSample(replace(one, prompt=world.describe(world.scene(SCENES + index)))))
    return samples


def _scheduler(name: str) -> type:
    found = getattr(diffusers, name, None) or getattr(diffusers, f"{name}Scheduler", None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise InputError(f"--scheduler names a scheduler of diffusers, like DDIMScheduler, not {name[:80]!r}.")
    return found


def _tables(found: Calibration) -> str:
    rows = [("ERROR, WORST", "MEAN", "HOW")]
    for one in sorted(found.options, key=lambda one: one.error):
        rows.append((f"{one.error:.2%}", f"{one.mean:.2%}", one.label))
    steps = [("CUT", "STEP TO FULL STEP, PREDICTED", "MEASURED")]
    steps += [(one.cut, f"{one.predicted:.0%}", f"{one.measured:.0%}") for one in found.costs]
    head = f"{found.model}, {found.steps} steps of {found.scheduler.split()[0]}, {found.samples} samples:"
    return f"{head}\n{table(rows)}\n{table(steps)}"
