"""The command line: python -m streamline generate | compare | models | trace.

Whatever is wrong with the input ends in one sentence on stderr and exit status 2. With --json, stdout holds
exactly one JSON value; everything else that is said goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm

from . import published, tracing
from .catalog import MODELS, load
from .errors import InputError, OutOfMemory, StreamlineError, telling_out_of_memory
from .job import ANIMATEDIFF_FRAMES, Job
from .naive import run_naive
from .plan import Plan, Slicing
from .runner import Decoding, Event, Finished, Result, Started, Step, run
from .tracing import Trace
from .video import check_path, comparison_sheet, export, largest_difference, save_picture

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130  # what shells report for Ctrl-C
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEFAULT_SLICES = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr), telling_out_of_memory():
            answer = options.command(options)
    except OutOfMemory as error:
        return _complain(str(error), FAILED)
    except StreamlineError as error:
        return _complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("Stopped.", INTERRUPTED)
    except Exception as error:
        if os.environ.get("STREAMLINE_DEBUG"):
            raise
        reason = next(iter(str(error).splitlines()), "")
        return _complain(f"{type(error).__name__}: {reason} (STREAMLINE_DEBUG=1 shows where.)", FAILED)
    try:
        print(answer, flush=True)
    except BrokenPipeError:  # the reader has seen enough; nothing is left to flush when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def generate(options: argparse.Namespace) -> str:
    """Make a video and write it; returns what to print."""
    output = check_path(options.out, ".mp4")
    plan = _plan(options)
    pipe, job, image = _prepare(options)
    with _Progress() as progress:
        if options.naive:
            result = run_naive(pipe, job, image, on_event=progress)
        else:
            result = run(pipe, job, plan, image, on_event=progress)
    export(result.frames, output, job.fps)

    if options.json:
        about = {"output": str(output), "model": options.model, "method": _method(options)}
        return json.dumps(about | result.to_dict() | {"versions": _versions()}, indent=2)
    return f"{output}: {job.num_frames} frames of {job.height}x{job.width}, {_took(result)}"


def compare(options: argparse.Namespace) -> str:
    """Make a video as it is, by a plan and clip by clip, and put all frames on one picture."""
    output = check_path(options.out, ".png")
    plan = _plan(options)
    if plan is None:
        raise InputError("compare makes the original in any case; --original is for generate.")
    pipe, job, image = _prepare(options)
    makers = {
        "original": lambda progress: run(pipe, job, None, image, progress),
        "streamlined": lambda progress: run(pipe, job, plan, image, progress),
        "clip by clip": lambda progress: run_naive(pipe, job, image, on_event=progress),
    }
    results = {}
    for name, make in makers.items():
        with _Progress() as progress:
            results[name] = make(progress)
    difference = largest_difference(results["original"].frames, results["streamlined"].frames)
    rows = {f"{name}: {_took(result)}": result.frames for name, result in results.items()}
    save_picture(comparison_sheet(rows), output)

    if options.json:
        about = {"output": str(output), "model": options.model, "largest_difference": difference}
        runs = {name: result.to_dict() for name, result in results.items()}
        return json.dumps(about | {"runs": runs, "versions": _versions()}, indent=2)
    lines = [*rows, f"largest difference of a pixel, original to streamlined: {difference} of 255", f"{output}"]
    return "\n".join(lines)


def _prepare(options: argparse.Namespace) -> tuple[DiffusionPipeline, Job, Image.Image | None]:
    """The pipeline, the job and the image that the options ask for."""
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
        given["height"], given["width"] = _size(options.size)
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


def models(options: argparse.Namespace) -> str:
    """The models with a name, as a table or as JSON."""
    rows = [
        {
            "name": model.name,
            "task": model.task,
            "here": model.is_here,
            "source": model.source,
            "motion_adapter": model.motion_adapter,
            "about": model.about,
        }
        for model in MODELS
    ]
    if options.json:
        return json.dumps(rows, indent=2)
    table = [("NAME", "TASK", "HERE", "ABOUT")]
    table += [(row["name"], row["task"], "yes" if row["here"] else "no", row["about"]) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = ["  ".join(map(str.ljust, row, [*widths, 0])) for row in table]
    lines.append("\nAny Hugging Face hub id, or folder in diffusers' layout, of such a model is a name too.")
    return "\n".join(lines)


def trace(options: argparse.Namespace) -> str:
    """What a published model needs at full size, as it is and by a plan, found without its weights."""
    plan = _plan(options)
    height, width = _size(options.size)
    frames = options.frames
    if frames is None:
        frames = published.MODELS[options.model]["unet"].get("num_frames", ANIMATEDIFF_FRAMES)
    job = Job(height=height, width=width, num_frames=frames)
    size = {"height": job.height, "width": job.width, "num_frames": job.num_frames}
    plans = {"original": None} | ({} if plan is None else {"streamlined": plan})
    traces = {name: tracing.trace(options.model, **size, plan=plan) for name, plan in plans.items()}
    if options.json:
        rows = {name: {part: _summary(trace) for part, trace in parts.items()} for name, parts in traces.items()}
        return json.dumps({"model": options.model, **size, **rows, "plan": plan and plan.to_dict()}, indent=2)
    lines = [f"{options.model}, {frames} frames of {height}x{width} in float16, activations without weights"]
    for part in ("denoiser", "decoder"):
        for name, parts in traces.items():
            found, original = parts[part], traces["original"][part]
            lines.append(
                f"  {part:8}  {name:11}  peak {found.peak_bytes / 2**30:6.2f} GiB  {found.calls:6} operator calls"
                f"  ({found.peak_bytes / original.peak_bytes:.0%} of the memory,"
                f" {found.calls / original.calls:.2f}x the calls)"
            )
    return "\n".join(lines)


def _summary(trace: Trace) -> dict[str, int]:
    return {"peak_bytes": trace.peak_bytes, "weights_bytes": trace.weights_bytes, "calls": trace.calls}


class _Progress:
    """A bar on stderr that shows steps and the highest memory so far."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        match event:
            case Started(job=job):
                total = job.num_inference_steps
                self.close()  # a video made in clips is several runs
                self._bar = tqdm(total=total, desc="denoising", unit="step", file=sys.stderr)
            case Step():
                self._bar.total = event.total
                self._bar.set_postfix_str(f"peak {_mebibytes(event.peak_bytes)}", refresh=False)
                self._bar.update()
            case Decoding():
                self._bar.set_description("decoding")
            case Finished():
                self._bar.set_description("done")
                self._bar.set_postfix_str(f"peak {_mebibytes(event.peak_bytes)}")


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(f"{message[0].upper()}{message[1:]}; --help explains.", BAD_INPUT))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="streamline", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    make = commands.add_parser("generate", help="make a video", allow_abbrev=False)
    make.set_defaults(command=generate)
    make.add_argument("--out", default="out.mp4", help="the MP4 to write (%(default)s)")
    _add_job_options(make)
    how = _add_plan_options(make)
    how.add_argument("--naive", action="store_true", help="make it clip by clip, to compare with")

    both = commands.add_parser("compare", help="one video made in every way, side by side", allow_abbrev=False)
    both.set_defaults(command=compare)
    both.add_argument("--out", default="comparison.png", help="the PNG to write (%(default)s)")
    _add_job_options(both)
    _add_plan_options(both)

    names = commands.add_parser("models", help="list the models with a name", allow_abbrev=False)
    names.set_defaults(command=models)
    names.add_argument("--json", action="store_true", help="print JSON")

    look = commands.add_parser("trace", help="memory of a published model at full size", allow_abbrev=False)
    look.set_defaults(command=trace)
    look.add_argument("--model", choices=published.MODELS, default="svd", help="(%(default)s)")
    look.add_argument("--size", metavar="HEIGHTxWIDTH", default="576x1024", help="in pixels (%(default)s)")
    look.add_argument("--frames", type=int, help="how many (as the model is made for)")
    _add_plan_options(look)
    look.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny-animatediff", help="name, hub id or folder (%(default)s)")
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
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (float16 on a GPU, else float32)")
    parser.add_argument("--offline", action="store_true", help="use only models that are on this machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object about the run")


def _add_plan_options(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--slices",
        metavar="N | frames=N,pixels=N",
        help=f"how finely to slice, and optionally group=N: the longest run of operators ({DEFAULT_SLICES})",
    )
    how.add_argument("--plan", metavar="FILE", help="a plan as JSON")
    how.add_argument("--original", action="store_true", help="run the pipeline as diffusers does")
    parser.add_argument(
        "--guidance",
        choices=["together", "apart"],
        help="the guidance halves as one batch, or one after the other with less memory (apart)",
    )
    return how


def _method(options: argparse.Namespace) -> str:
    return "naive" if options.naive else "original" if options.original else "streamlined"


def _plan(options: argparse.Namespace) -> Plan | None:
    untouched = options.original or getattr(options, "naive", False)
    if (untouched or options.plan is not None) and options.guidance is not None:
        raise InputError("--guidance goes with --slices, not with --plan, --original or --naive.")
    if untouched:
        return None
    if options.plan is not None:
        try:
            text = Path(options.plan).read_text(encoding="utf-8")
            return Plan.from_json(text)
        except StreamlineError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise InputError(f"The plan {options.plan} cannot be read: {reason}.") from error
        except RecursionError as error:
            raise InputError(f"The plan {options.plan} cannot be read: it is nested too deeply.") from error
    slicing = _slicing(str(DEFAULT_SLICES) if options.slices is None else options.slices)
    return Plan(denoiser=slicing, decoder=slicing, guidance=options.guidance or "apart")


def _slicing(text: str) -> Slicing:
    """ "8", or "frames=14,pixels=8,group=3" with any of the three left out."""
    pairs = [f"frames={text}", f"pixels={text}"] if text.isdecimal() else text.split(",")
    matches = [re.fullmatch(r"(frames|pixels|group)=(\d{1,9})", pair.strip()) for pair in pairs]
    if not all(matches) or len({match[1] for match in matches}) < len(matches):
        raise InputError(f"--slices is a number or like frames=14,pixels=8, not {text[:80]!r}.")
    return Slicing(**{match[1]: int(match[2]) for match in matches})


def _size(text: str) -> tuple[int, int]:
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


def _versions() -> dict[str, str]:
    packages = ("torch", "diffusers", "transformers")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def _took(result: Result) -> str:
    weights = _mebibytes(result.weights_bytes)
    return f"{result.seconds:.1f} s, peak {_mebibytes(result.peak_bytes)} of which {weights} are weights"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.{0 if size >= 2**30 else 1}f} MiB"


def _complain(sentence: str, status: int) -> int:
    print(f"streamline: {' '.join(sentence.split())}", file=sys.stderr)
    return status
