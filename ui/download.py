"""Taking a video home: in which format, how finely compressed, and the button; the same wherever a video is played."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

import streamline

from . import words
from .gallery import Run
from .looking import QUICK

FORMATS = (("MP4", ".mp4"), ("WebM", ".webm"), ("GIF", ".gif"), ("PNG frames", ".zip"))
CRF = 16  # of the file that is kept; less is finer


@dataclass(frozen=True)
class Download:
    """What a video is taken home with. row: all of it.

    offered: the name of the run. written: of the run that was written anew last, and the file.
    """

    row: gr.Row
    offered: gr.State
    written: gr.State
    kind: gr.Dropdown
    crf: gr.Slider
    button: gr.DownloadButton

    @property
    def outputs(self) -> list:
        """Of `offer`."""
        return [self.row, self.offered, self.kind, self.crf, self.button]

    def offer(self, run: Run | None) -> dict:
        """Offer a run's own file; without a run, nothing."""
        if run is None:
            return {self.row: gr.update(visible=False)}
        return {
            self.row: gr.update(visible=True),
            self.offered: run.name,
            self.kind: ".mp4",
            self.crf: CRF,
            self.button: gr.update(value=str(run.video)),
        }

    def connect(self, run_of: Callable[..., Run | None], inputs: list) -> None:
        """Write the file anew for another format. run_of: the run that is offered, by the values of `inputs`."""

        def export(suffix, crf, *values):
            """The video in another format; until it is written, nobody takes the one before home for it."""
            run = run_of(*values)
            if run is None:
                return
            yield gr.update(label="Writing …", interactive=False), ("", "")
            try:
                with tempfile.TemporaryDirectory(prefix="streamline-download-") as folder:
                    path = run.export(Path(folder) / f"video{suffix}", int(crf))
                    path = self.button.move_resource_to_block_cache(path)  # which gradio empties in time
            except (streamline.StreamlineError, OSError) as error:
                raise gr.Error(words.failure(error), print_exception=False) from None
            yield gr.skip(), (run.name, path)

        def put(written, offered):
            """On the button, unless nothing was written, or another video is offered by now."""
            name, path = written
            file = {"value": path} if name and name == offered else {}
            return gr.update(label="Download", interactive=True, **file)

        changes, asked = [self.kind.input, self.crf.input], [self.kind, self.crf, *inputs]
        event = gr.on(changes, export, asked, [self.button, self.written], trigger_mode="always_last", **QUICK)
        event.then(put, [self.written, self.offered], self.button, **QUICK)


def build(prefix: str = "") -> Download:
    """Lay it out, hidden. prefix: of the elements' ids."""
    with gr.Row(visible=False, equal_height=True) as row:
        kind = gr.Dropdown(list(FORMATS), value=".mp4", label="Format", min_width=120, elem_id=f"{prefix}format")
        crf = gr.Slider(
            10, 35, value=CRF, step=1, label="Compression", info="less is finer; for MP4 and WebM", min_width=220
        )
        button = gr.DownloadButton("Download", min_width=120, elem_id=f"{prefix}download", elem_classes="beside-fields")
    return Download(row, gr.State(""), gr.State(("", "")), kind, crf, button)
