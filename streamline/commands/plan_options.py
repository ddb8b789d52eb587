"""The options that say how a pipeline is run."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from diffusers import DiffusionPipeline

from ..errors import InputError, StreamlineError
from ..job import Job
from ..plan import FORMER, Plan, Slicing
from ..planning.planner import QUALITIES
from ..planning.tuning import tune
from ..sizes import parse_bytes

DEFAULT_SLICES = 4


def add_plan_options(parser: argparse.ArgumentParser, *, with_budget: bool = False) -> argparse._MutuallyExclusiveGroup:
    """Add the options that say how to run.
    with_budget: whether a plan may be tuned, which needs a pipeline and a job."""
    parser.set_defaults(budget=None, quality=None)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--slices",
        metavar="N | frames=N,pixels=N",
        help=f"how finely to slice, and optionally group=N: the longest run of operators ({DEFAULT_SLICES})",
    )
    how.add_argument("--plan", metavar="FILE", help="a plan as JSON")
    if with_budget:
        how.add_argument("--budget", metavar="SIZE", help="the fastest plan within so much memory, like 8GiB")
        parser.add_argument("--quality", choices=QUALITIES, help="with --budget: how exact (exact)")
    how.add_argument("--original", action="store_true", help="run the pipeline as diffusers does")
    parser.add_argument(
        "--guidance",
        type=lambda text: FORMER["guidance"].get(text, text),
        choices=["batched", "sequential"],
        help="the guidance halves as one batch, or one after the other with less memory (sequential)",
    )
    return how


def tuned(options: argparse.Namespace, plan: Plan | None, pipe: DiffusionPipeline, job: Job) -> Plan | None:
    """Return the plan for a budget, where the options name one, else the plan they ask for."""
    return plan if options.budget is None else tune(pipe, job, options.budget, options.quality or "exact")


def plan_of(options: argparse.Namespace) -> Plan | None:
    """Return the plan that the options ask for; None to run the pipeline untouched.
    One for a budget is yet to be tuned."""
    if options.budget is not None:
        parse_bytes(options.budget)
        if options.guidance is not None:
            raise InputError("--guidance goes with --slices; with --budget it is chosen for you.")
    elif options.quality is not None:
        raise InputError("--quality goes with --budget.")
    untouched = options.original or getattr(options, "naive", False)
    if (untouched or options.plan is not None) and options.guidance is not None:
        raise InputError("--guidance goes with --slices, not with --plan, --original or --naive.")
    if untouched:
        return None
    if options.budget is not None:
        return Plan()
    if isinstance(options.plan, Plan):  # from a receipt
        return options.plan
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
    return Plan(denoiser=slicing, decoder=slicing, guidance=options.guidance or "sequential")


def _slicing(text: str) -> Slicing:
    """ "8", or "frames=14,pixels=8,group=3" with any of the three left out."""
    pairs = [f"frames={text}", f"pixels={text}"] if text.isdecimal() else text.split(",")
    matches = [re.fullmatch(r"(frames|pixels|group)=(\d{1,9})", pair.strip()) for pair in pairs]
    if not all(matches) or len({match[1] for match in matches}) < len(matches):
        raise InputError(f"--slices is a number or like frames=14,pixels=8, not {text[:80]!r}.")
    return Slicing(**{match[1]: int(match[2]) for match in matches})
