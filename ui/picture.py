"""A field for a picture that hands on the file as it came, so that a bad one becomes a sentence and no error."""

from __future__ import annotations

import gradio as gr
from gradio.data_classes import ImageData


def picture_field(value: str | None, **options: object) -> gr.Image:
    """A gr.Image whose value is the path of the file, whatever is in it; None without one.

    gr.Image opens the file before anyone is asked, and fails on what is no picture, or one too large.
    """
    image = gr.Image(value, type="filepath", image_mode=None, **options)
    image.preprocess = _path  # a subclass would have gradio write a stub file into this package
    return image


def _path(payload: ImageData | None) -> str | None:
    return None if payload is None else payload.path
