"""The options of commands that plan: which job on which device, without anything being run."""

from __future__ import annotations

import argparse

import diffusers
import torch
from diffusers import DiffusionPipeline

from ..families import published
from ..hardware.cards import emulate
from ..job import ANIMATEDIFF_FRAMES, SVD_SIZE, Job
from ..models.catalog import load
from ..planning.planner import QUALITIES
from ..planning.tuning import Where
from .job_options import DTYPE_HELP, DTYPES, size_of


def add_situation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="svd", help="name, hub id or folder (%(default)s)")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", help="in pixels (as the model is made for)")
    parser.add_argument("--frames", type=int, help="how many (as the model is made for)")
    parser.add_argument("--steps", type=int, help="denoising steps (25)")
    parser.add_argument("--guidance-scale", type=float, help="1 or less for none, which takes half of everything")
    parser.add_argument("--quality", choices=QUALITIES, default="exact", help="(%(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", help="cpu, cuda, cuda:1 ... (the GPU if there is one)")
    where.add_argument("--emulate", metavar="CARD", help="plan for a card that is not here, by name or size (8GiB)")
    parser.add_argument("--dtype", choices=DTYPES, help=DTYPE_HELP)


def situation_of(options: argparse.Namespace) -> tuple[DiffusionPipeline | str, Job, Where, torch.dtype | None]:
    """The model, the job, the device and the type of the weights that the options ask for."""
    given = {
        "num_frames": options.frames,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.size is not None:
        given["height"], given["width"] = size_of(options.size)
    Job(**({"height": 8, "width": 8, "num_frames": 1} | given))
    where: Where = options.device if options.emulate is None else emulate(options.emulate)
    dtype = DTYPES.get(options.dtype)
    if options.model in published.MODELS:
        return options.model, published_job(options.model, given), where, dtype
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    pipe = load(options.model, device="cpu" if options.emulate else options.device, dtype=dtype)
    return pipe, Job.for_model(pipe, **given), where, dtype


def published_job(model: str, given: dict) -> Job:
    """A job of the size and length a published model is made for, except for what is given."""
    unet = published.config(model, "unet")
    frames = unet.get("num_frames", ANIMATEDIFF_FRAMES)
    height, width = SVD_SIZE if "num_frames" in unet else (512, 512)
    return Job(**({"height": height, "width": width, "num_frames": frames} | given))
