"""The log of the server: one line an event, each a JSON object, for people and programs alike.

No prompts, pictures, owners or paths: a line may be sent to anybody with a question.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys

log = logging.getLogger("streamline.app")
SHOWN = ("streamline", "ui")


def note(event: str, **facts: object) -> None:
    """Log an event, like note("done", order="a1b2", seconds=3.2)."""
    log.info(event, extra={"facts": facts})


class Lines(logging.Formatter):
    """A record as one line of JSON: when, how grave, what, and the facts of `note`; of an error its kind and place."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[0] is not None:
            line |= _error(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def to_stderr() -> None:
    """Show what this package and streamline log; calling it again changes nothing."""
    for name in SHOWN:
        logger = logging.getLogger(name)
        if not any(isinstance(handler.formatter, Lines) for handler in logger.handlers):
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(Lines())
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False


def _error(error: BaseException) -> dict:
    trace, places = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return {"error": type(error).__name__, "at": places[-6:]}
