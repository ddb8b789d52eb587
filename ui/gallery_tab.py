"""The Gallery tab: past runs of this browser, to look at, to bring back and to delete."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from PIL import Image

from . import panels, words
from .gallery import Run
from .journal import log
from .models import entries

SHOWN = 60


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
    job = run.settings.job
    label = offers[run.settings.model].label if run.settings.model in offers else run.settings.model
    title = job.prompt or "From a picture"
    measured = run.receipt.measured
    facts = (
        f"{label} · {words.count(job.num_frames, 'frame')} of {job.width} × {job.height} · seed {job.seed} · "
        f"{run.settings.quality} · {words.size(measured.peak_bytes)} in {words.duration(measured.seconds)} · "
        f"{time.strftime('%d %b, %H:%M', time.localtime(run.made))}"
    )
    return (
        f'<article data-run="{run.name}"><img src="{picture}" alt=""><div class="text"><b>{escape(title)}</b>'
        f'<div class="muted">{escape(facts)}</div>'
        f'<button type="button" class="action" data-action="restore" data-run="{run.name}">Use again</button> '
        f'<button type="button" class="action quiet" data-action="delete" data-run="{run.name}" '
        f'aria-label="Delete {escape(title)}">Delete</button></div></article>'
    )
