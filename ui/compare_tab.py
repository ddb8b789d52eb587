"""The Compare tab: the job of the Generate tab, original and streamlined, and a grid of budgets and qualities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import gradio as gr

import streamline

from . import comparing, panels, words
from .comparing import Comparisons
from .form import read
from .generate_tab import TICK_SECONDS
from .looking import QUICK
from .models import entries
from .orders import QUALITIES, Settings
from .state import Studio, known, watch_other, watched
from .style import html
from .style import read as read_static

POINTS = 3  # budgets of a quality, until someone asks for more
NOTHING_SEEN = ("", -1, -1)  # of an order: its id, its version, how many of its runs are made


@dataclass(frozen=True)
class CompareTab:
    """What the page needs of this tab. followed: outputs of `open_page`; about: the output of `describe`."""

    followed: list
    open_page: Callable
    describe: Callable
    about: gr.HTML


def build(studio: Studio, browser: gr.BrowserState, fields: Mapping[str, gr.components.Component]) -> CompareTab:
    """Lay the tab out and connect it. fields: of the Generate tab, by their names in a `Form`."""
    comparisons, inputs = Comparisons(), [*fields.values()]
    seen = gr.State(NOTHING_SEEN)
    about = html("", elem_id="compare-about")
    with gr.Row():
        start = gr.Button("Compare with the original", variant="primary", size="lg", scale=3, elem_id="compare")
        stop = gr.Button("Cancel", size="lg", scale=1, interactive=False, elem_id="compare-stop")
    trouble = html("", elem_classes="note", elem_id="compare-note")
    progress = html("", elem_classes="fold", elem_id="compare-progress")
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            wipe = html("", js_on_load=read_static("wipe.js"), elem_classes="fold", elem_id="wipe")
        with gr.Column(scale=5, min_width=320):
            figures = html("", elem_classes="fold", elem_id="figures")
            report = gr.DownloadButton("Download as one web page", visible=False, elem_id="report")
    with gr.Accordion("Sweep: many budgets and qualities in one table", open=False, elem_id="sweep"):
        with gr.Row(equal_height=True):
            qualities = gr.CheckboxGroup(list(QUALITIES), value=list(QUALITIES), label="Qualities", scale=3)
            points = gr.Slider(1, 6, value=POINTS, step=1, label="Budgets for each", scale=2)
            sweep = gr.Button("Run the sweep", elem_id="sweep-start", scale=1)
        table = html("", elem_classes="fold", elem_id="sweep-table")

    timer = gr.Timer(TICK_SECONDS, active=False)
    followed = [trouble, progress, wipe, figures, report, table, stop, timer, seen]

    def start_order(make_order, browser, values):
        browser = known(browser)
        reading = read(dict(zip(fields, values, strict=True)), studio.planner.profile, for_run=True)
        if not reading.is_complete:
            return {trouble: panels.note(next(iter(reading.notes.values())))}
        said = ""
        try:
            studio.service.refuse_second(browser["visitor"], "compare")  # at once, for planning may take a while
            order = make_order(studio.planner.full_plan(reading.settings), reading.image)
            browser["compare"] = studio.service.submit(browser["visitor"], order, alone=True)
            view = watched(studio, browser, "compare")
        except streamline.StreamlineError as error:
            said, view = panels.note(str(error)), watch_other(studio, browser, "compare")
        if view is None:
            return {trouble: said}
        return {trouble: said, browser_state: browser} | show(view) | {timer: gr.Timer(active=True), seen: NOTHING_SEEN}

    browser_state = browser

    def start_comparison(browser, *values):
        """The original and the streamlined run of the job in the Generate tab."""
        return start_order(studio.planner.comparison, browser, values)

    def start_sweep(qualities, points, browser, *values):
        """Every chosen quality at several budgets."""
        return start_order(
            lambda outlook, image: studio.planner.sweep(outlook, qualities, int(points), image), browser, values
        )

    def show(view) -> dict:
        done = view is not None and view.status == "done"
        answer = {
            progress: panels.progress(view),
            stop: gr.update(interactive=view is not None and not view.is_over),
        }
        if view is not None and view.status == "failed":
            answer[progress] = panels.progress(view) + panels.stage_box(view)
        if view is not None and view.order.kind == "sweep":
            answer[table] = comparing.grid(view)
        elif done:
            comparison = comparisons.of(view)
            answer |= {
                wipe: comparison.wipe,
                figures: comparison.figures,
                report: gr.update(visible=comparison.report is not None, value=comparison.report),
            }
        return answer

    over = {timer: gr.update(active=False), trouble: ""}

    def tick(browser, seen_before):
        view = watched(studio, browser, "compare")
        if view is None:
            return {timer: gr.Timer(active=False)}
        id_before, version_before, made_before = seen_before
        if (view.id, view.version) == (id_before, version_before):
            return {seen: seen_before}
        made = sum(result is not None for result in view.results)
        answer = {seen: (view.id, view.version, made)} | show(view)
        if (view.id, made) == (id_before, made_before):
            answer.pop(table, None)  # it stands as it is
        return answer | (over if view.is_over else {})

    def cancel(browser):
        view = watched(studio, browser, "compare")
        if view is None:
            return {stop: gr.update(interactive=False)}
        studio.service.cancel(browser["visitor"], view.id)
        return show(watched(studio, browser, "compare")) | over

    start.click(start_comparison, [browser, *inputs], [browser, *followed], **QUICK)
    sweep.click(start_sweep, [qualities, points, browser, *inputs], [browser, *followed], **QUICK)
    stop.click(cancel, browser, followed, **QUICK)
    timer.tick(tick, [browser, seen], followed, **QUICK)

    def describe(*values):
        """What will be compared, in a sentence."""
        reading = read(dict(zip(fields, values, strict=True)), studio.planner.profile)
        if reading.settings is None:
            return '<p class="muted">The settings in the Generate tab need mending first.</p>'
        return summary(reading.settings)

    def open_page(browser):
        view = watched(studio, known(browser), "compare")
        if view is None:
            return {seen: NOTHING_SEEN}
        return show(view) | {timer: gr.Timer(active=not view.is_over), seen: NOTHING_SEEN}

    return CompareTab(followed, open_page, describe, about)


def summary(settings: Settings) -> str:
    """The job of the Generate tab, in a sentence."""
    job, label = settings.job, entries()[settings.model].label
    subject = f"“{escape(job.prompt)}”" if job.prompt else "the picture of the Generate tab"
    return (
        f'<p class="hint">Compares {subject}: {escape(label)}, {words.count(job.num_frames, "frame")} of {job.width} × '
        f"{job.height}, {job.num_inference_steps} steps, seed {job.seed}, {settings.quality} quality, "
        "as set in the Generate tab.</p>"
    )
