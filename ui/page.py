"""The page: its tabs, put together."""

from __future__ import annotations

import gradio as gr

from . import api, compare_tab, gallery_tab, generate_tab, system_tab
from .looking import PLANNING, QUICK
from .restoring import restore_run
from .state import Studio, known
from .style import LOGO, html, read

TITLE = (
    f'<div class="brand">{read(LOGO.name)}<div><h1>Streamlined Inference</h1>'
    "<p>Make videos with the memory you have, and know what it takes before you start.</p></div></div>"
)


def build(studio: Studio) -> gr.Blocks:
    """The page of a studio."""
    with gr.Blocks(title="Streamlined Inference", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        browser = gr.BrowserState(None, storage_key="streamline", secret="streamline")
        html(TITLE, elem_id="title")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Generate", id="generate"):
                generate = generate_tab.build(studio, browser)
            with gr.Tab("Compare", id="compare") as compare_place:
                compare = compare_tab.build(studio, browser, generate.fields.by_name)
            with gr.Tab("Gallery", id="gallery") as gallery_place:
                gallery = gallery_tab.build(studio, browser)
            with gr.Tab("System", id="system") as system_place:
                system_tab.build(studio, browser, system_place)
        api.build(studio)

        def use_again(event: gr.EventData, browser):
            """Bring the settings of a run of the gallery back."""
            run = studio.service.gallery.get(known(browser)["visitor"], event._data.get("run", ""))
            if run is None:
                return gallery.show(browser, "")
            return generate.show_settings(restore_run(run)) | {tabs: gr.Tabs(selected="generate")}

        def open_page(browser):
            browser = known(browser)
            return generate.open_page(browser) | compare.open_page(browser) | gallery.show(browser, "")

        looking = generate.looking
        changes = [generate.changed.change, gallery_place.select]
        gr.on(changes, gallery.show, [browser, gallery.chosen], gallery.shown, **QUICK)
        looking.after(gallery.cards.click(use_again, browser, [*gallery.shown, tabs, *generate.restoring], **PLANNING))
        compare_place.select(compare.describe, generate.fields.inputs, compare.about, **QUICK)
        demo.load(open_page, browser, [*gallery.shown, *generate.opening, *compare.followed], **QUICK)
        looking.on([demo.load])
    return demo
