"""A button that wipes a lot asks once before it does."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from .looking import QUICK
from .style import html


def ask_first(button: gr.Button, question: Callable[..., str], inputs: list, yes: str) -> gr.Button:
    """Lay out the question that a button asks, hidden; returns the button that answers yes, labelled `yes`.

    question: a sentence, of the values of `inputs`.
    """
    with gr.Column(visible=False, elem_classes="asking", elem_id=f"{button.elem_id}-asking") as box:
        text = html("")
        with gr.Row():
            sure = gr.Button(yes, variant="stop", min_width=120, elem_id=f"{button.elem_id}-yes")
            keep = gr.Button("No, keep", min_width=120, elem_id=f"{button.elem_id}-no")

    def ask(*values):
        return {box: gr.update(visible=True), text: f'<p role="alert">{question(*values)}</p>'}

    button.click(ask, inputs, [box, text], **QUICK).then(
        None, None, None, js=f"() => document.querySelector('#{keep.elem_id}')?.focus()"
    )
    for answer in (sure, keep):
        answer.click(lambda: gr.update(visible=False), None, box, **QUICK)
    return sure
