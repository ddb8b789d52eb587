"""The app: a page over a service; both know only the public names of streamline."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr

from . import page, work
from .gallery import Gallery
from .models import Pipelines
from .planning import Planner
from .service import Service
from .state import Studio
from .style import CSS, HEAD, THEME

__all__ = ["LAUNCH", "build"]

OUTPUT_DIR = Path("outputs") / "gallery"
LAUNCH = {"theme": THEME, "css": CSS, "head": HEAD, "footer_links": ["api", "settings"]}


def build(output_dir: Path = OUTPUT_DIR, card: str = "", is_offline: bool = False) -> gr.Blocks:
    """The page with services of its own.

    output_dir: where videos are kept. card: to emulate from the beginning. is_offline: never ask the hub.
    """
    pipelines = Pipelines(is_offline)
    service = Service(partial(work.make, pipelines=pipelines), Gallery(output_dir))
    return page.build(Studio(service, Planner(pipelines), card, is_offline))
