"""From a file that a video was taken home in, back to the settings that made it."""

from __future__ import annotations

from pathlib import Path

import streamline

from .gallery import Gallery, Run
from .models import OWN, Source, entries
from .orders import Settings


def settings_of(receipt: streamline.Receipt) -> Settings:
    """The settings that make a receipt's video again."""
    known = next((entry for entry in entries().values() if receipt.model in (entry.name, entry.source)), None)
    source = Source(known.source if known else receipt.model, receipt.base or "", receipt.motion_adapter or "")
    budget = None if receipt.plan is None else receipt.plan.budget_bytes
    return Settings(known.name if known else OWN, source, receipt.job, quality_of(receipt), budget)


def quality_of(receipt: streamline.Receipt) -> str:
    """The quality whose plan a receipt has."""
    plan = receipt.plan
    if plan is None or plan.is_exact:
        return "exact"
    return "fast" if any(line.startswith("quality: fast") for line in plan.reasons) else "balanced"


def restore(path: str | Path, gallery: Gallery, owner: str) -> tuple[Settings, Path | None, bool]:
    """What a file says: its settings, its picture where this owner still has it, and whether one is missing.

    Raises InputError, one sentence, when there is no receipt in the file.
    """
    receipt = streamline.read_receipt(path)
    run = next((run for run in gallery.runs(owner) if run.receipt == receipt), None)
    if run is not None:
        return run.settings, run.picture, False
    return settings_of(receipt), None, receipt.image is not None


def restore_run(run: Run) -> tuple[Settings, Path | None, bool]:
    """The same for a run of the gallery."""
    return run.settings, run.picture, False
