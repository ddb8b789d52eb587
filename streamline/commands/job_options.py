"""The options that describe a video and the model that makes it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image

from ..errors import InputError
from ..families.naming import DEFAULT_MODEL, all_halves
from ..fields import COMMON, Field
from ..job import Job
from ..models.loading import load
from ..program.casting import FLOAT8, FLOAT8_NAME
from ..registry import own_fields
from ..source import Source

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, FLOAT8_NAME: FLOAT8}
DTYPE_HELP = "of the weights (float16 on a GPU, else float32); float8 halves the denoiser's, for another, similar video"


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of a job, of whatever family, and for what a model is loaded from."""
    parser.add_argument("--model", help=f"name, hub id or folder ({DEFAULT_MODEL})")
    add_field_options(parser, job_fields())
    parser.add_argument("--image", help="picture to start from, for image-to-video models")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", help="in pixels (as the model is made for)")
    for half in all_halves().values():
        parser.add_argument(f"--{half.name.replace('_', '-')}", help=half.help)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (the CUDA GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help=DTYPE_HELP)
    parser.add_argument("--offline", action="store_true", help="use only models that are on this machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object about the run")


def job_fields() -> list[Field]:
    """Return the fields of jobs that have an option, texts first."""
    fields = [field for field in (*COMMON, *own_fields().values()) if field.option]
    return sorted(fields, key=lambda field: field.kind is not str)


def add_field_options(parser: argparse.ArgumentParser, fields: Iterable[Field]) -> None:
    """Add an option for each field, kept under the field's name."""
    for field in fields:
        metavar = field.option.lstrip("-").replace("-", "_").upper()
        parser.add_argument(field.option, dest=field.name, type=field.kind, metavar=metavar, help=field.help)


def given_fields(options: argparse.Namespace) -> dict[str, object]:
    """Return the values of a job's fields that the options give, and refuse what no model takes."""
    given = {field.name: getattr(options, field.name, None) for field in job_fields()}
    given = {name: value for name, value in given.items() if value is not None}
    if options.size is not None:
        given["height"], given["width"] = size_of(options.size)
    Job(**({"height": 8, "width": 8, "num_frames": 1} | given))
    return given


def source_from(options: argparse.Namespace) -> Source:
    """Return what the options say a model is loaded from."""
    return Source(options.model, {name: getattr(options, name) for name in all_halves()})


def prepare(options: argparse.Namespace, like: Job | None = None) -> tuple[DiffusionPipeline, Job, Image.Image | None]:
    """Return the pipeline, the job and the image that the options ask for.

    like: what the job is but for what the options say; by default what the model is made for.
    """
    options.model = options.model or DEFAULT_MODEL
    image = None if options.image is None else _open_image(options.image)
    given = given_fields(options)
    given = ({} if like is None else like.to_dict()) | given

    silence()
    pipe = load(source_from(options), device=options.device, dtype=DTYPES.get(options.dtype), offline=options.offline)
    pipe.set_progress_bar_config(disable=True)
    return pipe, Job.for_model(pipe, **given), image


def silence() -> None:
    """Let diffusers and transformers say nothing but errors, and draw no bars."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def size_of(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text.strip())
    if match is None:
        raise InputError(f"--size is HEIGHTxWIDTH in pixels, like 576x1024, not {text[:80]!r}.")
    return int(match[1]), int(match[2])


def _open_image(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is no picture in a known format"
        raise InputError(f"The image {path} cannot be read: {reason}.") from error
