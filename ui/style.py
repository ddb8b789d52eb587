"""How the page looks. Fonts are the system's own, so that nothing is fetched from elsewhere."""

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).parent / "static"
SANS = ["system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=SANS,
    font_mono=MONO,
).set(
    body_background_fill="#f6f6fa",
    body_background_fill_dark="#11121a",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="#191b26",
    background_fill_secondary="#f4f4f8",
    background_fill_secondary_dark="#1d202c",
    block_background_fill_dark="#191b26",
    border_color_primary="#e3e4ee",
    border_color_primary_dark="#2b2f40",
    block_border_width="1px",
    block_shadow="none",
    block_label_text_weight="500",
    block_title_text_weight="560",
    input_background_fill="#ffffff",
    input_background_fill_dark="#141620",
    button_primary_background_fill="#5b5bd6",
    button_primary_background_fill_dark="#6a6ae0",
    button_primary_background_fill_hover="#4b4bc4",
    button_primary_background_fill_hover_dark="#7b7bef",
    button_primary_text_color="#ffffff",
    button_large_text_weight="620",
    button_large_radius="12px",
)


def read(name: str) -> str:
    """A file that the page is made of."""
    return (STATIC / name).read_text(encoding="utf-8")


LOGO = STATIC / "logo.svg"
CSS = read("style.css")
HEAD = f"<script>{read('page.js')}</script>"


def html(value: str, **options: object) -> gr.HTML:
    """HTML that only this page's own style applies to."""
    return gr.HTML(value, apply_default_css=False, **options)
