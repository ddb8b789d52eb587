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
from .form import FIELDS, Form, Reading, read
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
        self._settle_after(event.then(self.glimpse, self.fields.inputs, self._outputs, **QUICK))

    def on(self, events: list) -> None:
        """Plan anew at each of some events, for where the fields stand when several come together."""
        event = gr.on(events, self.glimpse, self.fields.inputs, self._outputs, trigger_mode="always_last", **QUICK)
        self._settle_after(event)

    def glimpse(self, request: gr.Request, *values):
        """What is known at once."""
        session = request.session_hash or ""
        self.asked[session] = values
        self.asked.move_to_end(session)
        while len(self.asked) > VISITORS:
            self.asked.popitem(last=False)
        reading = self.read(values)
        if reading.settings is None:
            return self._nothing(reading)
        try:
            outlook = self.studio.planner.glimpse(reading.settings)
        except streamline.StreamlineError as error:
            return self._nothing(Reading(None, {"model": str(error)}))
        if outlook is None:
            return [gr.skip(), gr.skip(), panels.PLANNING, "", "", *self.said(reading), gr.skip()]
        if not outlook.is_estimate:
            self.asked[session] = ()  # nothing is left to be worked out
        return self._answer(outlook, reading, values)

    def settle(self, request: gr.Request, *values):
        """The plan itself."""
        session = request.session_hash or ""
        if self.asked.get(session) != values:
            return [gr.skip()] * len(self._outputs)
        reading = self.read(values)
        if reading.settings is None:
            return self._nothing(reading)
        try:
            outlook = self.studio.planner.outlook(reading.settings)
        except streamline.StreamlineError as error:
            return self._nothing(Reading(None, {"model": str(error)}))
        if self.asked.get(session) != values:
            return [gr.skip()] * len(self._outputs)
        return self._answer(outlook, reading, values)

    def read(self, values: tuple, for_run: bool = False) -> Reading:
        """What the fields say."""
        return read(Form(**dict(zip(FIELDS, values, strict=True))), self.studio.planner.profile, for_run)

    def said(self, reading: Reading) -> list[str]:
        """What is wrong with each group of fields, for its note."""
        grouped = field_list.notes_by_group(reading.notes)
        return [panels.note(grouped.get(name)) for name in self.fields.notes]

    @property
    def _outputs(self) -> list:
        shown = [self.fields.slider, self.fields.budget_hint, self.plan, self.reasons, self.plan_json]
        return [*shown, *self.fields.notes.values(), self.start]

    def _settle_after(self, event: gr.events.Dependency) -> None:
        event.then(self.settle, self.fields.inputs, self._outputs, trigger_mode="always_last", **PLANNING)

    def _nothing(self, reading: Reading) -> list:
        return [gr.skip()] * 5 + self.said(reading) + [gr.skip()]

    def _answer(self, outlook: Outlook, reading: Reading, values: tuple) -> list:
        typed_budget = values[FIELDS.index("budget")].strip()
        return [
            panels.budget_slider(outlook),
            "" if typed_budget else panels.device_words(outlook.device, outlook.budget_bytes),
            panels.plan_panel(outlook),
            panels.reasons(outlook),
            "" if outlook.plan is None else outlook.plan.to_json(),
            *self.said(reading),
            gr.update(interactive=outlook.prediction is not None),
        ]
