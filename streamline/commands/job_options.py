"""The options that describe a video and the model that makes it."""

from __future__ import annotations

import argparse
import re

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image

from ..errors import InputError
from ..job import Job
from ..models.catalog import load
from ..program.casting import FLOAT8, FLOAT8_NAME

DEFAULT_MODEL = "tiny-animatediff"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, FLOAT8_NAME: FLOAT8}
DTYPE_HELP = "of the weights (float16 on a GPU, else float32); float8 halves the UNet's, for another, similar video"


def add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=f"name, hub id or folder ({DEFAULT_MODEL})")
    parser.add_argument("--prompt", help="what to show, for text-to-video models")
    parser.add_argument("--negative-prompt", help="what not to show")
    parser.add_argument("--image", help="picture to start from, for image-to-video models")
    parser.add_argument("--seed", type=int, help="same seed, same video (0)")
    parser.add_argument("--frames", type=int, help="how many (as the model is made for)")
    parser.add_argument("--steps", type=int, help="denoising steps (25)")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", help="in pixels (as the model is made for)")
    parser.add_argument("--fps", type=int, help="frames per second")
    parser.add_argument("--guidance-scale", type=float, help="how closely to follow prompt or image")
    parser.add_argument("--motion-bucket", type=int, help="how much an image moves, 0 to 255 (127)")
    parser.add_argument("--noise", type=float, help="how far the video may stray from the image (0.02)")
    parser.add_argument("--base", help="another Stable Diffusion 1.5 model for animatediff")
    parser.add_argument("--motion-adapter", help="another motion adapter for animatediff")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (the CUDA GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help=DTYPE_HELP)
    parser.add_argument("--offline", action="store_true", help="use only models that are on this machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object about the run")


def prepare(options: argparse.Namespace, like: Job | None = None) -> tuple[DiffusionPipeline, Job, Image.Image | None]:
    """The pipeline, the job and the image that the options ask for.

    like: what the job is but for what the options say; by default what the model is made for.
    """
    options.model = options.model or DEFAULT_MODEL
    image = None if options.image is None else _open_image(options.image)
    given = {
        "prompt": options.prompt,
        "negative_prompt": options.negative_prompt,
        "num_frames": options.frames,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seed": options.seed,
        "fps": options.fps,
        "motion_bucket_id": options.motion_bucket,
        "noise_aug_strength": options.noise,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.size is not None:
        given["height"], given["width"] = size_of(options.size)
    given = ({} if like is None else like.to_dict()) | given
    # What no model takes is refused before one is loaded.
    Job(**({"height": 8, "width": 8, "num_frames": 1} | given))

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    pipe = load(
        options.model,
        device=options.device,
        dtype=DTYPES.get(options.dtype),
        base=options.base,
        motion_adapter=options.motion_adapter,
        offline=options.offline,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe, Job.for_model(pipe, **given), image


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
