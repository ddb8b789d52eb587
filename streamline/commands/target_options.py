"""The options of commands that plan: which job on which device, without anything being run."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from diffusers import DiffusionPipeline

from ..families.building import job_for, planned_names
from ..families.naming import DEFAULT_PLANNED
from ..hardware.cards import emulate
from ..job import Job
from ..models.loading import load
from ..planning.planner import QUALITIES
from ..planning.tuning import Where
from .job_options import DTYPE_HELP, DTYPES, add_field_options, given_fields, job_fields, silence

# What the cost of a video depends on, beside its size.
PLANNED = ("num_frames", "num_inference_steps", "guidance_scale")


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a job as far as its cost depends on them, and of where it is to run."""
    parser.add_argument("--model", default=DEFAULT_PLANNED, help="name, hub id or folder (%(default)s)")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", help="in pixels (as the model is made for)")
    helps = {"guidance_scale": "1 or less for none, which takes half of everything"}
    fields = [field for field in job_fields() if field.name in PLANNED]
    add_field_options(parser, [replace(field, help=helps.get(field.name, field.help)) for field in fields])
    parser.add_argument("--quality", choices=QUALITIES, default="exact", help="(%(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", help="cpu, cuda, cuda:1 ... (the GPU if there is one)")
    where.add_argument("--emulate", metavar="CARD", help="plan for a card that is not here, by name or size (8GiB)")
    parser.add_argument("--dtype", choices=DTYPES, help=DTYPE_HELP)


def target_options_of(options: argparse.Namespace) -> tuple[DiffusionPipeline | str, Job, Where, torch.dtype | None]:
    """Return the model, the job, the device and the type of the weights that the options ask for."""
    given = given_fields(options)
    where: Where = options.device if options.emulate is None else emulate(options.emulate)
    dtype = DTYPES.get(options.dtype)
    if options.model in planned_names():
        return options.model, job_for(options.model, given), where, dtype
    silence()
    pipe = load(options.model, device="cpu" if options.emulate else options.device, dtype=dtype)
    return pipe, Job.for_model(pipe, **given), where, dtype
