"""The Generate tab: say what to make, see what it will take, watch it being made, take it home."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

import streamline
from streamline import Source

from . import download as downloads
from . import fields as field_list
from . import panels
from .fields import Fields
from .form import Reading, source_of
from .gallery import Run
from .looking import PLANNING, QUICK, Looking
from .models import entries
from .restoring import Restored, restore
from .state import Studio, known, watch_other, watched
from .style import html
from .style import read as read_static

TICK_SECONDS = 0.5


@dataclass(frozen=True)
class GenerateTab:
    """What other tabs need of this one.

    looking: plans anew for the fields. opening: outputs of `open_page`.
    changed: counts finished videos. restoring: outputs of `show_settings`, which fills in all fields.
    """

    fields: Fields
    looking: Looking
    opening: list
    open_page: Callable
    changed: gr.State
    restoring: list
    show_settings: Callable


def build(studio: Studio, browser: gr.BrowserState) -> GenerateTab:
    """Lay the tab out and connect it."""
    changed = gr.State(0)  # counts finished videos, so that the gallery follows
    seen = gr.State(("", -1))
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            fields = field_list.build(studio.card)
            with gr.Row():
                start = gr.Button("Make the video", variant="primary", size="lg", scale=3, elem_id="start")
                stop = gr.Button("Cancel", size="lg", scale=1, interactive=False, elem_id="stop")
        with gr.Column(scale=6, min_width=320):
            stage = html(panels.stage_box(None), elem_id="stage")
            video = gr.Video(
                label="Video", height=420, autoplay=True, loop=True, interactive=False, visible=False, elem_id="video"
            )
            progress = html("", elem_classes="fold", elem_id="progress")
            result = html("", elem_classes="fold", elem_id="result")
            download = downloads.build()
            live = html("", elem_classes="fold", elem_id="live")
            outlook_panel = html("", js_on_load=read_static("actions.js"), elem_id="plan")
            with gr.Accordion("The plan in the terms of the field", open=False, elem_id="reasons"):
                reasons = html("")
                plan_json = gr.Code("", language="json", label="Plan", max_lines=16)
            receipt_box = gr.Accordion("Receipt of this video", open=False, visible=False)
            with receipt_box:
                receipt = gr.Code("", language="json", label="Receipt", max_lines=20)

            with gr.Accordion("Bring back the settings of a video", open=False, elem_id="restore-box"):
                dropped = gr.File(
                    label="Drop an MP4, WebM, ZIP or JSON made here, anywhere on the page",
                    height=110,
                    elem_id="restore",
                )
            restore_note = html("", elem_classes="fold", elem_id="restore-note")

    timer = gr.Timer(TICK_SECONDS, active=False)
    notes = list(fields.notes.values())
    looking = Looking(studio, fields, outlook_panel, reasons, plan_json, start)

    def choose_model(*values):
        """Set the fields to what the model is made for."""
        form = fields.form(values)
        model = entries()[form["model"]]
        try:
            profile = studio.planner.profile(source_of(form, model), model)
        except streamline.StreamlineError:
            return fields.follow_unknown(model) | looking.said(looking.read(values))
        return fields.follow_model(model, profile) | looking.said(Reading(None))

    def start_order(keep_seed, browser, *values):
        """Put the video into the queue; what is wrong is told next to its field."""
        browser = known(browser)
        reading = looking.read(values, for_run=True)
        trouble, is_refused = dict(reading.notes), False
        if not trouble:
            try:
                studio.service.refuse_second(browser["visitor"], "generate")  # at once, for planning may take a while
                outlook = studio.planner.full_plan(reading.settings)
                order = studio.planner.order(outlook, reading.image)
                browser["generate"] = studio.service.submit(browser["visitor"], order, alone=True)
            except streamline.StreamlineError as error:
                trouble["budget"], is_refused = str(error), True
        answer = looking.said(Reading(None, trouble))
        if trouble and not is_refused:
            return answer
        view = watch_other(studio, browser, "generate") if is_refused else watched(studio, browser, "generate")
        if view is None:
            return answer
        if not keep_seed and not trouble:
            answer[fields.by_name["seed"]] = random.randrange(2**32)
        return answer | {browser_state: browser, timer: gr.Timer(active=True), seen: ("", -1)} | show(view, browser)

    def show(view, browser) -> dict:
        """An order that is being made, or is over; its video comes with it."""
        running = view is not None and not view.is_over
        done = view is not None and view.status == "done"
        run = studio.service.gallery.get(browser["visitor"], view.run) if done else None
        return {
            stage: gr.update(value=panels.stage_box(view) if not done else "", visible=not done),
            progress: panels.progress(view),
            live: panels.live(view),
            result: panels.result(view, studio.service.fidelity(view.receipts[0])) if done else "",
            video: gr.update(visible=True, value=run and str(run.video)) if done else gr.update(visible=False),
            stop: gr.update(interactive=running),
            receipt_box: gr.update(visible=done),
            receipt: run.receipt.to_json() if run is not None else gr.skip(),
        } | download.offer(run)

    def shown(browser) -> Run | None:
        """The video that this browser watched being made."""
        view = watched(studio, browser, "generate")
        return None if view is None else studio.service.gallery.get(browser["visitor"], view.run)

    def tick(browser, seen_before, count):
        """Follow the order that this browser watches."""
        view = watched(studio, browser, "generate")
        if view is None:
            return {timer: gr.Timer(active=False)}
        if (view.id, view.version) == tuple(seen_before):
            return {seen: seen_before}
        answer = {seen: (view.id, view.version)} | show(view, browser)
        if view.is_over:
            answer |= {timer: gr.Timer(active=False), changed: count + 1}
        return answer

    def cancel(browser):
        """End the order; at once here, and within a slice where it is made."""
        view = watched(studio, browser, "generate")
        if view is None:
            return {stop: gr.update(interactive=False)}
        studio.service.cancel(browser["visitor"], view.id)
        return {timer: gr.Timer(active=False), fields.notes["budget"]: ""} | show(
            watched(studio, browser, "generate"), browser
        )

    def slide(event: gr.EventData):
        """The memory slider was moved."""
        return field_list.budget_text(int(event._data["bytes"]))

    def remedy(event: gr.EventData, budget, model):
        """Do what a button of the plan proposes."""
        data = event._data
        answer = {}
        if data.get("action") == "budget":
            answer[fields.by_name["budget"]] = field_list.budget_text(int(data["bytes"]))
        for name in ("frames", "width", "height"):
            if name in data:
                answer[fields.by_name[name]] = int(data[name])
        if "width" in data:
            label = field_list.size_label((int(data["width"]), int(data["height"])))
            presets = field_list.sizes_of(entries()[model])
            answer[fields.size] = gr.update(choices=[*dict.fromkeys([label, *presets])], value=label)
        if "quality" in data:
            answer[fields.by_name["quality"]] = data["quality"]
        if "budget" in data:
            answer[fields.by_name["budget"]] = field_list.budget_text(int(data["budget"]))
        return answer or {fields.by_name["budget"]: budget}

    browser_state = browser
    followed = [stage, progress, live, result, video, stop, receipt_box, receipt, *download.outputs]
    budget = fields.by_name["budget"]

    plain = ("frames", "steps", "width", "height", "guidance", "fps", "seed", "quality", "prompt", "negative_prompt")
    typed = [field.input for field in (*(fields.by_name[name] for name in plain), *fields.own_fields.values())]
    typed += [fields.by_name["image"].change, budget.submit, budget.blur]
    looking.on(typed)
    sides = [fields.by_name["width"], fields.by_name["height"], fields.free_size]
    looking.after(fields.size.input(field_list.follow_size, fields.size, sides, **QUICK))
    looking.after(fields.by_name["card"].input(lambda: "", None, budget, **QUICK))
    looking.after(fields.slider.input(slide, None, budget, **QUICK))
    mended = [budget, fields.size, *(fields.by_name[name] for name in ("frames", "width", "height", "quality"))]
    looking.after(outlook_panel.click(remedy, [budget, fields.by_name["model"]], mended, **QUICK))
    named = [fields.by_name["model"].input, fields.by_name["own"].submit]
    for event in [*named, *(half.submit for half in fields.halves.values())]:
        looking.after(event(choose_model, fields.inputs, [*fields.shape, *notes], **PLANNING))
    start.click(
        start_order,
        [fields.keep_seed, browser, *fields.inputs],
        [*notes, browser, timer, seen, fields.by_name["seed"], *followed],
        **QUICK,
    )
    stop.click(cancel, browser, [timer, fields.notes["budget"], *followed], **QUICK)
    timer.tick(tick, [browser, seen, changed], [seen, timer, changed, *followed], **QUICK)
    download.connect(shown, [browser])

    def open_page(browser):
        """Find again what this browser was watching."""
        browser = known(browser)
        view = watched(studio, browser, "generate")
        running = view is not None and not view.is_over
        return {browser_state: browser, timer: gr.Timer(active=running), seen: ("", -1)} | (
            show(view, browser) if view is not None else {}
        )

    def show_settings(restored: Restored) -> dict:
        """Fill in all fields; outputs are `restoring`."""
        settings, picture = restored.settings, restored.picture
        model = entries().get(settings.model)
        if model is None:
            return {restore_note: panels.note(f"There is no model {settings.model!r} here.")}
        try:
            profile = studio.planner.profile(settings.source, model)
        except streamline.StreamlineError as error:
            return {restore_note: panels.note(str(error))}
        answer = fields.follow_model(model, profile)
        label = field_list.size_label((settings.job.width, settings.job.height))
        presets = field_list.sizes_of(model)
        answer[fields.size] = gr.update(choices=[*({label: 0} | dict.fromkeys(presets))], value=label)
        filled = field_list.fill(settings, model, profile, None if picture is None else str(picture))
        note = '<span class="good">Its settings are back.</span>' + panels.note(restored.remark)
        for name in filled.keys() & fields.by_name.keys():
            field, value = fields.by_name[name], filled[name]
            before = answer[field] if isinstance(answer.get(field), dict) else gr.update()
            answer[field] = before | (value if isinstance(value, dict) else {"value": value})
        return answer | {restore_note: note}

    restoring = [restore_note, *dict.fromkeys([*fields.shape, *fields.inputs])]

    def restore_file(path, browser, picture, own, *halves):
        """Bring back the settings of a video or a receipt that was made here."""
        if path is None:
            return {restore_note: gr.skip()}
        try:
            owner, parts = known(browser)["visitor"], dict(zip(fields.halves, map(str.strip, halves), strict=True))
            typed = Source(own.strip(), parts)
            found = restore(path, studio.service.gallery, owner, typed, picture, studio.is_public)
        except streamline.InputError as error:
            return {restore_note: panels.note(str(error)), dropped: None}
        return show_settings(found) | {dropped: None}

    known_here = [fields.by_name["image"], fields.by_name["own"], *fields.halves.values()]
    looking.after(dropped.upload(restore_file, [dropped, browser, *known_here], [dropped, *restoring], **PLANNING))
    opening = [browser, timer, seen, *followed]
    return GenerateTab(fields, looking, opening, open_page, changed, restoring, show_settings)
