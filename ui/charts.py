"""Charts as HTML: pure functions from figures to text. Positions are shares of the width, so any screen will do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import streamline

from . import words

PARTS = (
    ("weights", "the model itself"),
    ("activations", "working memory"),
    ("kept", "kept between steps"),
    ("overhead", "the system's share"),
)
STAGES = {
    "encode": "Read the input",
    "denoise": "Make the video",
    "decode": "Turn it into frames",
    "export": "Write it",
}
BEYOND = 1.6  # a budget further right than this many peaks is named, not drawn


def stage_bars(prediction: streamline.Prediction, budget_bytes: int) -> str:
    """A stacked bar of the predicted peak of every stage, against the budget."""
    peak = prediction.peak_bytes
    scale = max(peak, budget_bytes) * 1.04 if budget_bytes < BEYOND * peak else peak * 1.15
    rows = "".join(_stage_row(stage, scale, budget_bytes) for stage in prediction.stages)
    line, beyond = "", ""
    if budget_bytes <= scale:
        line = f'<i class="budget-line" style="left:{budget_bytes / scale:.2%}"></i>'
        label = f'<span class="budget-label" style="left:{budget_bytes / scale:.2%}">budget {words.size(budget_bytes)}'
        label += "</span>"
    else:
        beyond = " beyond"
        label = f'<span class="budget-label" style="left:100%">budget {words.size(budget_bytes)} →</span>'
    shown = [key for key, _ in PARTS if any(_part(stage, key) for stage in prediction.stages)]
    legend = "".join(f'<span><i class="{key}"></i>{name}</span>' for key, name in PARTS if key in shown)
    return (
        f'<div class="stages{beyond}" role="img" aria-label="Predicted memory, stage by stage">'
        f'<div class="stage head"><span></span><div class="track">{label}</div><span></span></div>'
        f'{rows}<div class="stage rules"><span></span><div class="track">{line}</div><span></span></div></div>'
        f'<div class="legend">{legend}</div>'
    )


def _stage_row(stage: streamline.StagePrediction, scale: float, budget_bytes: int) -> str:
    segments = "".join(f'<i class="{key}" style="width:{_part(stage, key) / scale:.2%}"></i>' for key, _ in PARTS)
    verdict = " over" if stage.peak_bytes > budget_bytes else ""
    return (
        f'<div class="stage"><span>{escape(stage_name(stage.name))}</span><div class="track bar{verdict}">{segments}'
        f"</div><b>{words.size(stage.peak_bytes)}</b></div>"
    )


def stage_name(name: str) -> str:
    """What people call a stage."""
    return STAGES.get(name.split()[0], name.capitalize())


def _part(stage: streamline.StagePrediction, key: str) -> int:
    return {
        "weights": stage.weights_bytes,
        "activations": stage.activation_bytes,
        "kept": stage.kept_bytes,
        "overhead": stage.workspace_bytes + stage.context_bytes,
    }[key]


def frontier(points: Sequence[tuple[int, float]], here: int | None, budget_bytes: int) -> str:
    """Time against memory. points: (bytes, seconds), each a button that sets the budget; here: index of the plan."""
    sizes, times = [size for size, _ in points], [seconds for _, seconds in points]
    low, high = min(sizes) * 0.9, max(sizes) * 1.12
    least, most = min(times), max(times)
    room = max(most - least, most * 0.05)
    bottom, top = max(0.0, least - room * 0.25), most + room * 0.25

    def place(size: float, seconds: float) -> tuple[float, float]:
        across = math.log(size / low) / math.log(high / low)
        return 100 * min(1.0, max(0.0, across)), 100 * (top - seconds) / (top - bottom)

    spots = [place(*point) for point in points]
    line = " ".join(f"{x:.2f},{y:.2f}" for x, y in sorted(spots))
    limit, _ = place(max(budget_bytes, low), least)
    shade = f'<i class="beyond" style="left:{limit:.2f}%"></i>' if budget_bytes < high else ""
    dots = "".join(
        f'<button type="button" class="dot{" here" if index == here else ""}{" out" if size > budget_bytes else ""}" '
        f'style="left:{x:.2f}%;top:{y:.2f}%" data-action="budget" data-bytes="{math.ceil(size * 1.02)}" '
        f'title="{words.size_up(size)}, {words.duration(seconds)}" '
        f'aria-label="Set the budget to {words.size_up(size)}, for {words.duration(seconds)}"></button>'
        for index, ((size, seconds), (x, y)) in enumerate(zip(points, spots, strict=True))
    )
    mark = ""
    if here is not None:
        x, y = spots[here]
        side = "left" if x > 60 else "right"
        mark = f'<span class="mark {side}" style="left:{x:.2f}%;top:{y:.2f}%">you are here</span>'
    return (
        '<div class="plot frontier"><div class="canvas">'
        f"{_svg(f'<polyline points={line!r}/>')}{shade}{dots}{mark}</div>"
        f'<div class="axis"><span>{words.size(min(sizes))}</span><span>more memory →</span>'
        f"<span>{words.size(max(sizes))}</span></div>"
        f'<div class="axis-y"><span>{_seconds(most, room)}</span><span>{_seconds(least, room)}</span></div></div>'
    )


def _seconds(seconds: float, room: float) -> str:
    """A time on an axis whose ends are `room` seconds apart, as finely as tells them from each other."""
    return f"{seconds:.2f} s" if room < 1 else words.duration(seconds)


def memory(
    samples: Sequence[tuple[float, int, int]], predicted_bytes: int | None, budget_bytes: int | None, seconds: float
) -> str:
    """Memory over time: (seconds, live bytes, peak bytes so far); seconds: width of the plot."""
    top = max([peak for _, _, peak in samples] + [predicted_bytes or 0, 1]) * 1.2
    if budget_bytes is not None and budget_bytes < BEYOND * top:
        top = max(top, budget_bytes * 1.1)
    span = max(seconds, samples[-1][0] if samples else 0.0, 0.1)

    def line(values: Iterable[tuple[float, int]]) -> str:
        return " ".join(f"{100 * x / span:.2f},{100 - 100 * y / top:.2f}" for x, y in values)

    lives, peaks = line((t, live) for t, live, _ in samples), line((t, peak) for t, _, peak in samples)
    area = f'<polygon class="live" points="0,100 {lives} {100 * samples[-1][0] / span:.2f},100"/>' if samples else ""
    shapes = f'{area}<polyline class="peak" points="{peaks}"/>'
    rules = ""
    for size, name, label in ((predicted_bytes, "predicted", "predicted peak"), (budget_bytes, "limit", "budget")):
        if size is not None and size <= top:
            height = 100 - 100 * size / top
            rules += f'<i class="rule {name}" style="top:{height:.2f}%"><span>{label} {words.size(size)}</span></i>'
    note = ""
    if budget_bytes is not None and budget_bytes > top:
        note = f"<span>budget {words.size(budget_bytes)}, far above</span>"
    return (
        f'<div class="plot memory"><div class="canvas">{_svg(shapes)}{rules}</div>'
        f'<div class="axis"><span>0 s</span>{note}<span>{words.duration(span)}</span></div></div>'
    )


def sparkline(values: Sequence[float]) -> str:
    """A small line of how something went, from its least to its most."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    room = max(high - low, high * 0.02, 1e-9)
    points = " ".join(
        f"{100 * index / (len(values) - 1):.2f},{95 - 90 * (value - low) / room:.2f}"
        for index, value in enumerate(values)
    )
    return f'<div class="spark">{_svg(f"<polyline points={points!r}/>")}</div>'


def step_bars(seconds: Sequence[float], total: int, reused: frozenset[int] | set[int] = frozenset()) -> str:
    """One bar a step, with room for those to come; reused: steps that reuse what an earlier one computed."""
    if not total:
        return ""
    top = max(seconds, default=1.0)
    bars = "".join(
        f'<i class="{"reused" if index in reused else "full"}" style="height:{max(3.0, 100 * value / top):.1f}%" '
        f'title="step {index + 1}: {value:.2f} s{", reused" if index in reused else ""}"></i>'
        for index, value in enumerate(seconds)
    )
    blanks = "<i></i>" * max(0, total - len(seconds))
    legend = '<div class="legend"><span><i class="full"></i>computed in full</span><span><i class="reused"></i>reused'
    legend += "</span></div>"
    return f'<div class="steps">{bars}{blanks}</div>{legend if reused else ""}'


def ratio_bars(rows: Sequence[tuple[str, float, str, str]]) -> str:
    """Bars on one scale. rows: (label, value, value in words, class)."""
    top = max((value for _, value, _, _ in rows), default=1.0) or 1.0
    return (
        '<div class="ratio">'
        + "".join(
            f'<div class="row"><span>{escape(label)}</span><div class="track"><i class="{kind}" '
            f'style="width:{100 * value / top:.1f}%"></i></div><b>{escape(text)}</b></div>'
            for label, value, text, kind in rows
        )
        + "</div>"
    )


def frame_bars(values: Sequence[float], top: float, unit: str) -> str:
    """A value for every frame, bars on a scale up to `top`; what is beyond counts as identical."""
    bars = "".join(
        f'<i class="full" style="height:{100 * min(1.0, max(0.02, value / top)):.1f}%" '
        f'title="frame {index + 1}: {"identical" if value >= top else f"{value:.2f} {unit}"}"></i>'
        for index, value in enumerate(values)
    )
    return f'<div class="steps frames">{bars}</div>'


def _svg(shapes: str) -> str:
    return f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{shapes}</svg>'
