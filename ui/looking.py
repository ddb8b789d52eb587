"""Planning while the fields change: an answer at once, and the plan itself as soon as it is worked out.

Two events for every change. The first shows the plan if it is known, else an estimate; the second works the plan out
and shows it, unless the fields have changed meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import gradio as gr

import streamline

from . import fields as field_list
from . import panels
from .fields import Fields
from .form import Reading, read
from .planning import Outlook
from .state import Studio

VISITORS = 256  # whose last question is remembered
QUICK = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 20}
PLANNING = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 4, "concurrency_id": "plan"}


@dataclass
class Looking:
    """plan, reasons, plan_json, start: what is shown beside the fields."""

    studio: Studio
    fields: Fields
    plan: gr.HTML
    reasons: gr.HTML
    plan_json: gr.Code
    start: gr.Button
    asked: OrderedDict[str, tuple] = field(default_factory=OrderedDict)

    def after(self, event: gr.events.Dependency) -> None:
        """Plan anew once an event is over."""
        self._full_plan_after(event.then(self.quick_estimate, self.fields.inputs, self._outputs, **QUICK))

    def on(self, events: list) -> None:
        """Plan anew at each of some events, for where the fields stand when several come together."""
        event = gr.on(
            events, self.quick_estimate, self.fields.inputs, self._outputs, trigger_mode="always_last", **QUICK
        )
        self._full_plan_after(event)

    def quick_estimate(self, request: gr.Request, *values):
        """What is known at once."""
        session = request.session_hash or ""
        self.asked[session] = values
        self.asked.move_to_end(session)
        while len(self.asked) > VISITORS:
            self.asked.popitem(last=False)
        reading = self.read(values)
        if reading.settings is None:
            return self.said(reading)
        try:
            outlook = self.studio.planner.quick_estimate(reading.settings)
        except streamline.StreamlineError as error:
            return self.said(Reading(None, {"model": str(error)}))
        if outlook is None:
            return {self.plan: panels.PLANNING, self.reasons: "", self.plan_json: ""} | self.said(reading)
        if not outlook.is_estimate:
            self.asked[session] = ()  # nothing is left to be worked out
        return self._answer(outlook, reading, values)

    def full_plan(self, request: gr.Request, *values):
        """The plan itself."""
        session = request.session_hash or ""
        if self.asked.get(session) != values:
            return {self.start: gr.skip()}
        reading = self.read(values)
        if reading.settings is None:
            return self.said(reading)
        try:
            outlook = self.studio.planner.full_plan(reading.settings)
        except streamline.StreamlineError as error:
            return self.said(Reading(None, {"model": str(error)}))
        if self.asked.get(session) != values:
            return {self.start: gr.skip()}
        return self._answer(outlook, reading, values)

    def read(self, values: tuple, for_run: bool = False) -> Reading:
        """What the fields say."""
        return read(self.fields.form(values), self.studio.planner.profile, for_run)

    def said(self, reading: Reading) -> dict:
        """What is wrong with each group of fields, by its note."""
        grouped = field_list.notes_by_group(reading.notes)
        return {note: panels.note(grouped.get(name)) for name, note in self.fields.notes.items()}

    @property
    def _outputs(self) -> list:
        shown = [self.fields.slider, self.fields.budget_hint, self.plan, self.reasons, self.plan_json]
        return [*shown, *self.fields.notes.values(), self.start]

    def _full_plan_after(self, event: gr.events.Dependency) -> None:
        event.then(self.full_plan, self.fields.inputs, self._outputs, trigger_mode="always_last", **PLANNING)

    def _answer(self, outlook: Outlook, reading: Reading, values: tuple) -> dict:
        typed_budget = self.fields.form(values)["budget"].strip()
        return self.said(reading) | {
            self.fields.slider: panels.budget_slider(outlook),
            self.fields.budget_hint: "" if typed_budget else panels.device_words(outlook.device, outlook.budget_bytes),
            self.plan: panels.plan_panel(outlook),
            self.reasons: panels.reasons(outlook),
            self.plan_json: "" if outlook.plan is None else outlook.plan.to_json(),
            self.start: gr.update(interactive=outlook.prediction is not None),
        }
