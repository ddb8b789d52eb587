"""What the Generate tab shows besides its fields, as HTML: pure functions of an outlook or of a view."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

import streamline

from . import charts, words
from .orders import Settings
from .planning import Outlook
from .service import View

PREVIEW_PIXELS = 320
STRIP_FRAMES = 8
MOST_NOTES = 3  # of a run, the latest
FILM = (
    '<svg viewBox="0 0 48 48" fill="none" stroke="currentColor" stroke-width="2.5" aria-hidden="true">'
    '<rect x="5" y="9" width="38" height="30" rx="5"/>'
    '<path d="M5 18h38M5 30h38M14 9v9M24 9v9M34 9v9M14 30v9M24 30v9M34 30v9"/>'
    "</svg>"
)


def budget_slider(outlook: Outlook) -> str:
    """The memory slider, on a logarithmic scale from the least that does to all there is."""
    least, most, budget = outlook.least_bytes, outlook.most_bytes, outlook.budget_bytes
    fastest = outlook.predictions[0].peak_bytes

    def fraction(size: float) -> float:
        if most <= least:
            return 1.0
        return min(1.0, max(0.0, math.log(size / least) / math.log(most / least)))

    ticks = [(fraction(least), f"least: {words.size_up(least)}")]
    if 0.3 < fraction(fastest) < 0.7:
        ticks.append((fraction(fastest), "fastest"))
    ticks.append((1.0, f"all: {words.size(most)}"))
    marks = "".join(f'<span style="left:{place:.1%}">{label}</span>' for place, label in ticks)
    value = round(1000 * fraction(budget))
    short = " short" if budget < least else ""
    return (
        f'<div class="budget{short}"><div class="top"><label for="memory-range">Memory it may use</label>'
        f"<output>{words.size(budget)}</output></div>"
        f'<input type="range" id="memory-range" min="0" max="1000" value="{value}" data-least="{math.ceil(least)}" '
        f'data-most="{most}" style="--at: {value / 10:.1f}%" aria-valuetext="{words.size(budget)}">'
        f'<div class="ticks">{marks}</div></div>'
    )


def device_words(device: streamline.Device, budget: int) -> str:
    """Where a budget nobody chose comes from."""
    if device.emulated:
        return (
            f"Pretending to be a {escape(device.name)} with {words.size(device.total_bytes)}. The plan is the one for "
            "that card; the video is made here, within its memory."
        )
    what = "main memory" if device.kind == "cpu" else f"memory on the {escape(device.name)}"
    headroom = max(0, device.total_bytes - device.used_by_others_bytes - budget)
    return (
        f"{words.size(device.total_bytes)} of {what}: {words.size(device.used_by_others_bytes)} are in use by other "
        f"programs, {words.size(headroom)} are left free for your desktop, and {words.size(budget)} may be used here."
    )


PLANNING = (
    '<div class="panel outlook pending" id="planning" role="status"><h3>What it will take</h3>'
    '<p class="sentence"><i class="spinner"></i>Working out the first plan for this model; it takes some seconds, '
    "once.</p></div>"
)
ESTIMATE = '<p class="sentence"><i class="spinner"></i>A first estimate; the plan itself is being worked out.</p>'
CHECKING = (
    '<p class="muted"><i class="spinner"></i>Judging by another job on this model; this one is being worked out.</p>'
)


def plan_panel(outlook: Outlook) -> str:
    """What a run will take, or why it cannot be made and what to change."""
    shown = outlook.prediction or outlook.predictions[-1]
    bars = charts.stage_bars(shown, outlook.budget_bytes)
    kind = " estimate" if outlook.is_estimate else ""
    if outlook.prediction is None:
        buttons = "".join(_remedy(remedy.label, dict(remedy.changes)) for remedy in outlook.remedies)
        body = (
            f'<div class="trouble"><p>{escape(outlook.trouble)}</p>'
            f'<div class="remedies">{buttons}</div></div>{ESTIMATE if kind else ""}'
            f"<h4>Memory in the smallest pieces</h4>{bars}"
        )
        return f'<div class="panel outlook{kind}" id="outlook" role="status"><h3>It does not fit yet</h3>{body}</div>'
    saved = 1 - shown.peak_bytes / outlook.original.peak_bytes
    saving = f"{saved:.0%} less than the original" if saved >= 0.01 else "as the original"
    points = [(one.peak_bytes, one.seconds) for one in outlook.predictions]
    here = next((index for index, one in enumerate(outlook.predictions) if one == outlook.prediction), None)
    plot = ""
    if len(points) > 1:
        plot = (
            "<h4>Time against memory: choose a point to set the budget</h4>"
            f"{charts.frontier(points, here, outlook.budget_bytes)}"
        )
    said = ESTIMATE if outlook.plan is None else f'<p class="sentence">{sentence(outlook.plan, outlook.settings)}</p>'
    if outlook.is_estimate and outlook.plan is not None:
        said += CHECKING
    return (
        f'<div class="panel outlook{kind}" id="outlook" role="status"><h3>What it will take</h3><div class="headline">'
        f"<div><b>{words.size(shown.peak_bytes)}</b><span>memory at the worst moment, {saving}</span></div>"
        f"<div><b>{words.duration(shown.seconds)}</b><span>time, {_confidence(shown)}</span></div></div>"
        f"{said}<h4>Memory, stage by stage</h4>{bars}{plot}</div>"
    )


def _remedy(label: str, changes: dict) -> str:
    data = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in changes.items())
    return f'<button type="button" class="action" data-action="remedy" {data}>{escape(label)}</button>'


def _confidence(prediction: streamline.Prediction) -> str:
    known = {"measured here": "as measured here", "calibrated": "judging by earlier runs here"}
    return known.get(prediction.tag, "an estimate")


def sentence(plan: streamline.Plan, settings: Settings) -> str:
    """A plan in one sentence, for people who never heard of slices."""
    parts = []
    for name, blocks in (("the model", plan.denoiser), ("the step to frames", plan.decoder)):
        finest = max((max(one.frames, one.pixels) for _, one in blocks), default=1)
        if finest > 1:
            parts.append(f"{name} works on up to {finest} pieces in turn where memory is tightest")
    if plan.guidance == "sequential" and settings.job.is_guided:
        parts.append("the two halves of each step run one after the other")
    if plan.residency == "model offload":
        parts.append("each part of the model is on the card only while it is needed")
    if plan.residency == "group offload":
        parts.append("the model waits in the computer’s own memory and comes to the card piece by piece, as it is used")
    if plan.rehash is not None:
        steps = settings.job.num_inference_steps
        full = steps - len(_reused(plan, steps))
        parts.append(f"{full} of {steps} steps are computed in full and the rest reuse them")
    if plan.sampler is not None:
        parts.append(f"{plan.sampler.steps} steps are taken instead of {settings.job.num_inference_steps}")
    text = ", ".join(parts) if parts else "everything fits whole, so nothing has to be cut up"
    end = "the video is the same as the original’s" if plan.is_exact else "the video is close to the original’s"
    return f"{text[0].upper()}{text[1:]}; {end}."


def reasons(outlook: Outlook) -> str:
    """Every choice of the plan with its reason, in the terms of the field."""
    if outlook.plan is None:
        said = "The plan is being worked out." if outlook.is_estimate else "There is no plan that fits."
        return f'<p class="muted">{said}</p>'
    rows = "".join(f"<li>{escape(line)}</li>" for line in outlook.plan.reasons)
    return f'<ul class="reasons">{rows}</ul>'


def stage_box(view: View | None) -> str:
    """The dark box the video appears in: what it looks like so far."""
    if view is None or view.status == "cancelled":
        text = "Cancelled. Ready for the next one." if view else "Your video appears here."
        return f'<div class="stagebox">{FILM}<p>{text}</p></div>'
    if view.status == "failed":
        said = f'<p class="big">It was not made</p><p>{escape(view.trouble)}</p>'
        return f'<div class="stagebox" role="alert">{said}</div>'
    if not view.preview:
        said = "The first picture appears after a step." if view.status == "denoising" else status_words(view)
        return f'<div class="stagebox">{FILM}<p>{said}</p></div>'
    middle = view.preview[len(view.preview) // 2]
    every = max(1, len(view.preview) // STRIP_FRAMES)
    strip = "".join(f'<img src="{data_uri(frame, 64)}" alt="">' for frame in view.preview[::every][:STRIP_FRAMES])
    return (
        f'<div class="stagebox preview"><img class="middle" src="{data_uri(middle)}" alt="The middle frame so far">'
        f'<div class="strip">{strip}</div></div>'
    )


def status_words(view: View) -> str:
    """Where an order stands."""
    if view.status == "waiting":
        if not view.ahead:
            return "Starting"
        ahead = "1 video is" if view.ahead == 1 else f"{view.ahead} videos are"
        return f"Waiting: {ahead} to be made before yours"
    part = view.order.parts[view.part].label
    suffix = f" ({part})" if view.order.kind != "generate" and view.status not in ("loading", "done") else ""
    return {
        "loading": "Loading the model",
        "warming": "Warming up",
        "denoising": "Making the video",
        "decoding": "Turning it into frames",
        "checking": "Measuring how close it is to the original",
        "writing": "Writing the files",
        "done": "Done",
        "failed": "Not made",
        "cancelled": "Cancelled",
    }[view.status] + suffix


def progress(view: View | None) -> str:
    """How far an order is: a bar, the step, the time left."""
    if view is None:
        return ""
    done, total = len(view.steps), view.total_steps or view.order.settings.job.num_inference_steps
    fraction, figures, kind = 1.0, "", ""
    if view.status in ("waiting", "loading", "warming"):
        kind, fraction = " waiting", 0.35
    elif view.status == "denoising":
        fraction = 0.94 * done / max(total, 1)
        left = view.seconds_left
        figures = f"step {done} of {total}" + (f" · about {words.duration(left)} left" if left is not None else "")
    elif view.status in ("decoding", "checking", "writing"):
        fraction, figures = 0.97, f"step {total} of {total}"
    elif view.status == "done":
        figures = f"in {words.duration(view.ended - view.began)}"
    if view.order.kind != "generate" and not view.is_over:
        made = sum(result is not None for result in view.results)
        due = sum(not part.is_skipped for part in view.order.parts)
        figures = f"run {min(made + 1, due)} of {due}" + (f" · {figures}" if figures else "")
    notes = "".join(f'<p class="muted">{escape(sentence)}</p>' for sentence in dict.fromkeys(view.notes[-MOST_NOTES:]))
    width = "" if kind else f' style="width:{fraction:.0%}"'
    return (
        '<div class="progress" role="status">'
        f'<div class="status"><b>{status_words(view)}</b><span>{figures}</span></div>'
        f'<div class="track{kind}"><i{width}></i></div>{notes}</div>'
    )


def live(view: View | None) -> str:
    """Memory and seconds per step, while it runs and afterwards."""
    if view is None or not view.samples:
        return ""
    part = view.order.parts[view.part]
    budget = None if part.plan is None else part.plan.budget_bytes
    predicted = None if part.prediction is None else part.prediction.peak_bytes
    last = view.samples[-1]
    expected = max(last.seconds + (view.seconds_left or 0.0), 0.5)
    samples = [(one.seconds, one.live_bytes, one.peak_bytes) for one in _thin(view.samples)]
    plot = charts.memory(samples, predicted, budget, last.seconds if view.is_over else expected)
    reused = _reused(part.plan, view.total_steps)
    seconds = [step.seconds for step in view.steps]
    pace = f"{sorted(seconds)[len(seconds) // 2]:.2f} s a step" if seconds else ""
    process = [one.process_bytes for one in _thin(view.samples) if one.process_bytes]
    return (
        '<div class="panel live"><h3>While it runs</h3><div class="headline">'
        f"<div><b>{words.size(last.peak_bytes)}</b><span>most memory so far</span></div>"
        f"<div><b>{words.size(last.live_bytes)}</b><span>in use now</span></div>"
        f"<div><b>{pace or '–'}</b><span>pace</span></div></div>{plot}"
        f"<h4>Seconds, step by step</h4>{charts.step_bars(seconds, view.total_steps, reused)}"
        f"<h4>The whole program, Python included: {words.size(process[-1] if process else 0)} "
        f"{charts.sparkline(process)}</h4></div>"
    )


def _thin(samples: Sequence, most: int = 240) -> list:
    every = -(-len(samples) // most)
    return [*samples[::every], samples[-1]] if every > 1 else list(samples)


def result(view: View | None, fidelity: streamline.Fidelity | None = None) -> str:
    """Predicted against measured, and how close the video is to the original's."""
    if view is None or view.status != "done" or view.order.kind != "generate":
        return ""
    part, made = view.order.parts[0], view.results[0]
    rows = ""
    if part.prediction is not None:
        rows = _row("Memory at the worst moment", part.prediction.peak_bytes, made.peak_bytes, words.size)
        rows += _row("Time", part.prediction.seconds, made.seconds, words.duration)
    card = ""
    if view.order.settings.card:
        card = '<p class="muted">The prediction is for the emulated card; time was measured on this machine.</p>'
    return (
        f'<div class="panel result"><h3>The result</h3>{badge(view.receipts[0], fidelity)}'
        '<table class="figures"><thead><tr><th></th><th>predicted</th><th>measured</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{card}</div>"
    )


def badge(receipt: streamline.Receipt, fidelity: streamline.Fidelity | None) -> str:
    """How close a video is to the one the untouched pipeline makes, and how that is known."""
    plan, how = receipt.plan, ""
    if plan is None:
        kind, text = "exact", "the original itself"
    elif receipt.exactness == "exact":
        kind, text = "exact", f"exact: {_sameness(receipt, fidelity)}"
        if fidelity is None:
            how = "Only the order of computing differs. Compare makes the original too, and measures it."
    else:
        kind, text = "near", f"approximate: {approximation(plan, receipt.job)}"
        text += "; not measured" if fidelity is None else f"; {_decibels(fidelity)} measured here"
        if fidelity is None:
            how = "Compare makes the original too, and measures how close this is."
    how = f'<p class="muted">{how}</p>' if how else ""
    return f'<span class="badge {kind}">{text}</span>{how}'


def approximation(plan: streamline.Plan, job: streamline.Job) -> str:
    """What a plan does otherwise than the original, in words."""
    steps = job.num_inference_steps
    if plan.rehash is None:
        return f"{plan.steps(steps)} steps instead of {steps}"
    return f"{len(_reused(plan, steps))} of {steps} steps reuse others"


def _reused(plan: streamline.Plan | None, steps: int) -> set[int]:
    """Steps that are not computed in full."""
    if plan is None or plan.rehash is None:
        return set()
    return {step for step in range(steps) if not plan.rehash.is_full(step)}


def _sameness(receipt: streamline.Receipt, fidelity: streamline.Fidelity | None) -> str:
    if fidelity is not None and fidelity.largest_difference == 0:
        return "the original’s video, pixel for pixel, measured here"
    if fidelity is not None:
        return f"no pixel is further than {fidelity.largest_difference} of 255 from the original, measured here"
    if receipt.dtype == "float32":
        return "the same as the original within 1e-5"
    return "the same as the original but for the rounding of half precision"


def _decibels(fidelity: streamline.Fidelity) -> str:
    return "no difference" if math.isinf(fidelity.psnr) else f"PSNR {fidelity.psnr:.0f} dB"


def _row(name: str, predicted: float, measured: float, in_words) -> str:
    return f"<tr><td>{name}</td><td>{in_words(predicted)}</td><td>{in_words(measured)}</td></tr>"


def note(sentence: str | None) -> str:
    """A sentence next to a field."""
    return f"<p>{escape(sentence)}</p>" if sentence else ""


def data_uri(image: Image.Image, most: int = PREVIEW_PIXELS) -> str:
    """A picture to put into a page: small ones as they are, large ones scaled down."""
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most))
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "PNG" if max(image.size) <= 96 else "JPEG", quality=88)
    kind = "png" if max(image.size) <= 96 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
