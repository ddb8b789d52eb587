"""What commands say: progress on stderr while they run, tables and figures on stdout when they are done."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

from tqdm import tqdm

from ..applying.fallback import PlanDowngraded
from ..running.events import Decoding, Event, Finished, Result, Started, Step
from ..running.watching import Disturbed
from ..sizes import format_bytes


class Progress:
    """A bar on stderr that shows steps and the highest memory so far."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
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
                self._bar.set_postfix_str(f"peak {format_bytes(event.peak_bytes)}", refresh=False)
                self._bar.update()
            case PlanDowngraded() | Disturbed():
                self._bar.write(event.sentence, file=sys.stderr)
            case Decoding():
                self._bar.set_description("decoding")
            case Finished():
                self._bar.set_description("done")
                self._bar.set_postfix_str(f"peak {format_bytes(event.peak_bytes)}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text, the first of them headings, in columns; the last column may be of any width."""
    last = len(rows[0]) - 1
    widths = [max(len(row[column]) for row in rows) for column in range(last)]
    return "\n".join("  ".join(map(str.ljust, row, [*widths, 0])) for row in rows)


def versions() -> dict[str, str]:
    packages = ("torch", "diffusers", "transformers")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def took(result: Result) -> str:
    weights = format_bytes(result.weights_bytes)
    return f"{result.seconds:.1f} s, peak {format_bytes(result.peak_bytes)} of which {weights} are weights"
