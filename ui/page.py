"""The page: its tabs, put together."""

from __future__ import annotations

import gradio as gr

from . import gallery_tab, generate_tab
from .state import Studio
from .style import read

LOGO = (
    '<svg viewBox="0 0 48 48" aria-hidden="true"><rect width="48" height="48" rx="12" fill="#5b5bd6"/>'
    '<g fill="#fff"><rect x="10" y="13" width="28" height="5" rx="2.5" opacity=".55"/>'
    '<rect x="10" y="21.5" width="20" height="5" rx="2.5"/>'
    '<rect x="10" y="30" width="12" height="5" rx="2.5" opacity=".55"/>'
    "</g></svg>"
)
TITLE = (
    f'<div class="brand">{LOGO}<div><h1>Streamlined Inference</h1>'
    "<p>Make videos with the memory you have, and know what it takes before you start.</p></div></div>"
)


def build(studio: Studio) -> gr.Blocks:
    """The page; launch it with ui.LAUNCH."""
    with gr.Blocks(title="Streamlined Inference", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        browser = gr.BrowserState(None, storage_key="streamline", secret="streamline")
        gr.HTML(TITLE, elem_id="title")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Generate", id="generate"):
                generate = generate_tab.build(studio, browser)
            with gr.Tab("Gallery", id="gallery"):
                gallery = gr.HTML("", js_on_load=read("actions.js"), elem_id="gallery")

        def show_gallery(browser):
            return gallery_tab.cards(studio.service.gallery.runs(browser["visitor"]))

        gr.on([generate.changed.change], show_gallery, browser, gallery, **generate_tab.QUICK)
        demo.load(generate.open_page, browser, generate.opening, **generate_tab.QUICK).then(
            show_gallery, browser, gallery, **generate_tab.QUICK
        )
        demo.load(generate.look, generate.fields.inputs, generate.look_outputs, **generate_tab.PLANNING)
    return demo
