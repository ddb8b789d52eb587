"""The app: a page over a service; both know only the public names of streamline."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

import streamline

from . import page, work, zero
from .gallery import Gallery
from .guard import Guard
from .journal import to_stderr as log_to_stderr
from .models import Pipelines
from .orders import Order
from .planning import Planner, dtype_of
from .service import Service
from .state import Studio
from .style import CSS, HEAD, LOGO, THEME

__all__ = ["LAUNCH", "OUTPUT_DIR", "build", "log_to_stderr"]

OUTPUT_DIR = Path("outputs") / "gallery"
LAUNCH = {
    "theme": THEME,
    "css": CSS,
    "head": HEAD,
    "favicon_path": LOGO,
    "pwa": True,  # the browser may install it: a window of its own, and a place among the programs
    "footer_links": ["api", "settings"],
    "max_file_size": "200mb",
    "ssr_mode": False,
    "app_kwargs": {"middleware": [Middleware(Guard)]},
}


def build(
    output_dir: Path = OUTPUT_DIR, card: str = "", is_offline: bool = False, is_public: bool = False
) -> gr.Blocks:
    """The page with services of its own; launch it with ui.LAUNCH.

    output_dir: where videos are kept. card: to emulate from the beginning. is_offline: never ask the hub.
    is_public: strangers may come, so no folder of this machine can be named.
    Raises InputError for a card that nobody knows.
    """
    if card:
        streamline.emulate(card)
    pipelines = Pipelines(is_offline, is_public)
    if zero.is_here():
        make = zero.on_gpu(work.make, partial(_fetch, pipelines))
    else:
        make = partial(work.make, pipelines=pipelines)
    planner = Planner(pipelines)
    service = Service(make, Gallery(output_dir), planner.forget)
    return page.build(Studio(service, planner, card, is_offline, is_public))


def _fetch(pipelines: Pipelines, order: Order) -> None:
    pipelines.get(order.settings.source, dtype_of(order.settings.model, order.settings.card))
