"""The command line: python -m streamline COMMAND ...; the commands are in streamline/commands, one a file.

Whatever is wrong with the input ends in one sentence on stderr and exit status 2. With --json, stdout holds
exactly one JSON value; everything else that is said goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands import budgets, compare, devices, doctor, frontier, generate, models, plan, trace
from .errors import OutOfMemory, StreamlineError, telling_out_of_memory
from .lab.commands import bench, calibrate, peaks, timing

COMMANDS = (generate, compare, plan, frontier, budgets, models, trace, devices, calibrate, timing, peaks, bench, doctor)
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130  # what shells report for Ctrl-C


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
    text, status = (answer, 0) if isinstance(answer, str) else answer
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has seen enough; nothing is left to flush when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        # "-3GiB" is no option but a bad value, for the command to refuse in its own words.
        self._negative_number_matcher = re.compile(r"-\d")

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(f"{message[0].upper()}{message[1:]}; --help explains.", BAD_INPUT))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="streamline", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def _complain(sentence: str, status: int) -> int:
    print(f"streamline: {' '.join(sentence.split())}", file=sys.stderr)
    return status
