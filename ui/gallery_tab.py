"""The Gallery tab: past runs of this browser, to play, to take home, to bring back and to delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr
from PIL import Image

from . import download as downloads
from . import panels, words
from .gallery import Run
from .journal import log
from .looking import QUICK
from .models import entries
from .state import Studio, known
from .style import html, read

SHOWN = 60
PLAY = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M9 6.5v11l9-5.5z" fill="currentColor"/></svg>'
# Whoever uses a keyboard is led to the player, and back to where they were.
GO_TO_PLAYER = """() => {
  document.querySelector("#player")?.scrollIntoView({ block: "nearest" });
  document.querySelector("#player-close")?.focus({ preventScroll: true });
}"""
GO_BACK = """() => {
  const name = document.querySelector("#player-about [data-run]")?.dataset.run;
  document.querySelector(`#gallery .play[data-run="${name}"]`)?.focus();
}"""


@dataclass(frozen=True)
class GalleryTab:
    """What the page needs of this tab.

    cards: a run each; their click means that its settings are wanted. show: of a browser and what is `chosen`, the
    name of the run that is played; outputs are `shown`.
    """

    cards: gr.HTML
    chosen: gr.State
    shown: list
    show: Callable[[dict | None, str], dict]


def build(studio: Studio, browser: gr.BrowserState) -> GalleryTab:
    """Lay the tab out and connect it."""
    gallery = studio.service.gallery
    chosen = gr.State("")
    with gr.Column(visible=False, elem_id="player") as player:
        video = gr.Video(
            show_label=False, height=420, autoplay=True, loop=True, interactive=False, elem_id="player-video"
        )
        with gr.Row(equal_height=True):
            about = html("", elem_id="player-about")
            close = gr.Button("Close", size="sm", scale=0, min_width=90, elem_id="player-close")
        download = downloads.build("player-")
    listed = html("", js_on_load=read("actions.js"), elem_id="gallery")

    def run_of(browser, name: str) -> Run | None:
        return gallery.get(known(browser)["visitor"], name)

    def played(run: Run | None) -> dict:
        """The player with a run; without one, closed."""
        if run is None:
            return {chosen: "", player: gr.update(visible=False), video: None}
        title, facts = _told(run, entries())
        return {
            chosen: run.name,
            player: gr.update(visible=True),
            video: str(run.video),
            about: f'<div data-run="{run.name}"><b>{escape(title)}</b><div class="muted">{escape(facts)}</div></div>',
        } | download.offer(run)

    def show(browser, name):
        """Every run, and the player as it is, unless its run is gone."""
        answer = {listed: cards(gallery.runs(known(browser)["visitor"]))}
        return answer if name and run_of(browser, name) is not None else answer | played(None)

    def play(event: gr.EventData, browser):
        """Open a run in the player."""
        run = run_of(browser, event._data.get("run", ""))
        return played(run) if run is not None else show(browser, "")

    def delete(event: gr.EventData, browser, name):
        gallery.delete(known(browser)["visitor"], event._data.get("run", ""))
        return show(browser, name)

    shown = [listed, chosen, player, video, about, *download.outputs]
    listed.select(play, browser, shown, **QUICK).then(None, None, None, js=GO_TO_PLAYER)
    listed.delete(delete, [browser, chosen], shown, **QUICK)
    close.click(lambda: played(None), None, shown, js=GO_BACK, **QUICK)
    download.connect(run_of, [browser, chosen])
    return GalleryTab(listed, chosen, shown, show)


def cards(runs: Sequence[Run]) -> str:
    """A card for every run; one whose thumbnail cannot be read is left out, and logged."""
    offers = entries()
    shown = [_card(run, picture, offers) for run in runs[:SHOWN] if (picture := _picture(run)) is not None]
    if not shown:
        return '<div class="empty">Videos you make appear here, and stay until you delete them.</div>'
    return f'<div class="gallery">{"".join(shown)}</div>'


def _picture(run: Run) -> str | None:
    try:
        with Image.open(run.thumbnail) as thumbnail:
            return panels.data_uri(thumbnail)
    except Exception as error:  # a decoder may raise anything on a damaged file
        log.warning("the thumbnail of run %s cannot be read, so it is not shown: %s", run.name, type(error).__name__)
        return None


def _card(run: Run, picture: str, offers: dict) -> str:
    title, facts = map(escape, _told(run, offers))

    def button(event: str, style: str, label: str, content: str) -> str:
        return (
            f'<button type="button" class="{style}" data-action="{event}" data-event="{event}" data-run="{run.name}" '
            f'aria-label="{label} {title}">{content}</button>'
        )

    play = button("select", "play", "Play", f'<img src="{picture}" alt="">{PLAY}')
    again = button("click", "action", "Use again", "Use again")
    delete = button("delete", "action quiet", "Delete", "Delete")
    text = f'<div class="text"><b>{title}</b><div class="muted">{facts}</div>{again} {delete}</div>'
    return f'<article data-run="{run.name}">{play}{text}</article>'


def _told(run: Run, offers: dict) -> tuple[str, str]:
    """What a run shows, and how it was made."""
    job, measured = run.settings.job, run.receipt.measured
    label = offers[run.settings.model].label if run.settings.model in offers else run.settings.model
    facts = (
        f"{label} · {words.count(job.num_frames, 'frame')} of {job.width} × {job.height} · seed {job.seed} · "
        f"{run.settings.quality} · {words.size(measured.peak_bytes)} in {words.duration(measured.seconds)} · "
        f"{time.strftime('%d %b, %H:%M', time.localtime(run.made))}"
    )
    return job.prompt or "From a picture", facts
