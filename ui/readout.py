"""Readings as HTML: what a run takes while it runs, and all runs of a visit side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from .studio import Reading

CHART = (600, 64)  # width, height of the chart's own coordinates


@dataclass(frozen=True)
class Run:
    """A finished run, as the comparison shows it."""

    label: str
    seconds: float
    peak_bytes: int
    weights_bytes: int


def show_reading(reading: Reading) -> str:
    """The state of a run: how far, memory, seconds per step, and how they went."""
    done, total = len(reading.step_seconds), reading.total
    share = 1.0 if reading.result else done / total if total else 0.0
    figures = {
        "peak memory": _bytes(reading.peak_bytes),
        "live memory": _bytes(reading.live_bytes),
        "per step": f"{median(reading.step_seconds):.2f} s" if done else "–",
        "in all": f"{reading.result.seconds:.1f} s" if reading.result else "–",
    }
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in figures.items())
    return f"""<div class="readout">
<div class="status"><span>{escape(reading.status)}</span><span>{f"step {done} of {total}" if total else ""}</span></div>
{f'<p class="trouble">{escape(reading.trouble)}</p>' if reading.trouble else ""}
<div class="track"><i style="width: {share:.0%}"></i></div>
<div class="figures">{cells}</div>
<p class="caption">seconds, step by step</p>
{_chart(reading.step_seconds, total)}
</div>"""


def show_runs(runs: Sequence[Run]) -> str:
    """Bars of peak memory, one for each run, all on one scale."""
    if not runs:
        return ""
    widest = max(run.peak_bytes for run in runs)
    rows = "".join(_row(run, widest) for run in runs)
    return f"""<div class="runs">{rows}
<div class="legend"><i class="weights"></i><span>weights</span><i class="activations"></i><span>everything else
at the worst moment</span></div>
<p class="note">On a CPU, the seconds include the time it takes to count tensors.</p></div>"""


def _row(run: Run, widest: int) -> str:
    weights = min(run.weights_bytes, run.peak_bytes)  # offloaded ones are not all there at once
    return f"""<div class="run"><span>{escape(run.label)}</span>
<div class="bar"><div class="weights" style="width: {weights / widest:.1%}"></div>
<div class="activations" style="width: {(run.peak_bytes - weights) / widest:.1%}"></div></div>
<span class="right">{_bytes(run.peak_bytes)}</span><span class="right seconds">{run.seconds:.1f} s</span></div>"""


def _chart(seconds: Sequence[float], total: int) -> str:
    """One bar a step, with room for the steps to come."""
    width, height = CHART
    pitch = width / max(total, 1)
    top = max(seconds, default=1.0)
    bars = "".join(
        f'<rect x="{index * pitch:.1f}" y="{height * (1 - value / top):.1f}" '
        f'width="{pitch * 0.8:.1f}" height="{height * value / top:.1f}" rx="2"/>'
        for index, value in enumerate(seconds)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" fill="var(--color-accent)">'
        f'<rect y="{height - 1}" width="{width}" height="1" fill="var(--border-color-primary)"/>{bars}</svg>'
    )


def _bytes(size: int) -> str:
    if size == 0:
        return "–"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
