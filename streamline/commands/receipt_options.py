"""The option that takes every other one from a receipt, but for those that are given themselves."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from PIL import Image

from ..errors import InputError
from ..hardware.detection import detect
from ..output.receipt import Receipt, digest
from ..output.receipt_files import read_receipt
from ..program.casting import FLOAT8_NAME


def add_receipt_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-receipt",
        metavar="FILE",
        help="make the video of a receipt (in .mp4, .webm, .zip or .json) again; options given beside it override it",
    )


def restore(options: argparse.Namespace) -> Receipt | None:
    """Read the receipt that the options name, and take from it the model and how to run it; the job is in it."""
    if options.from_receipt is None:
        return None
    receipt = read_receipt(options.from_receipt)
    if receipt.image is not None and options.image is None:
        raise InputError("The receipt's video starts from a picture, which is not in it: give it with --image.")
    if options.model is None or "model" in dict(receipt.folders):  # which has to be said where it is
        for part, _ in receipt.folders:
            name, option = receipt.names[part], f"--{part.replace('_', '-')}"
            if getattr(options, part) is None and not receipt.is_of(part, name):
                raise InputError(f"The video was made with a folder called {name!r}: say where it is, with {option}.")
        for part, name in receipt.names.items():
            setattr(options, part, getattr(options, part) or name)
    if options.dtype is None and receipt.dtype in (*detect(options.device).dtypes, FLOAT8_NAME):
        options.dtype = receipt.dtype
    says_how = (options.slices, options.plan, options.budget, options.quality)
    if not (options.original or options.naive or any(value is not None for value in says_how)):
        options.naive = receipt.method == "naive"
        options.original = receipt.method == "original"
        options.plan = receipt.plan
        if receipt.plan is not None and options.guidance is not None:
            options.plan, options.guidance = replace(receipt.plan, guidance=options.guidance), None
    return receipt


def tell_other_model(receipt: Receipt, options: argparse.Namespace) -> None:
    """Say so where a folder holds another model than the receipt's."""
    for part, _ in receipt.folders:
        given = getattr(options, part)
        if given is not None and not receipt.is_of(part, given):
            print(
                f"streamline: {given} is not the receipt's {part.replace('_', ' ')}, so it will be another video.",
                file=sys.stderr,
            )


def tell_other_image(receipt: Receipt, image: Image.Image) -> None:
    """Say so where the picture is not the one that the receipt's video started from."""
    if receipt.image is not None and digest(image, receipt.job) != receipt.image:
        print("streamline: This is another picture than the receipt's, so it will be another video.", file=sys.stderr)
