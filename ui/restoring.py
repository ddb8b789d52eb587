"""From a file that a video was taken home in, back to the settings that made it.

Such a file goes to strangers, so it names folders without saying where they are, and holds no picture. Both are found
again where this visitor has them: in their own runs of the gallery, or in the fields of their page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamline
from streamline import Source

from .fields import PICTURES
from .form import read_picture
from .gallery import Gallery, Run
from .models import OWN, OWN_MODEL, entries
from .orders import QUALITIES, Settings

MODEL = "model"  # beside the halves, what may be a folder


@dataclass(frozen=True)
class Restored:
    """What a file, or a run, says. picture: the one it was made from. remark: what else there is to know."""

    settings: Settings
    picture: Path | None = None
    remark: str = ""


def settings_of(receipt: streamline.Receipt) -> Settings:
    """The settings that make a receipt's video again, a folder by its name only."""
    offers = [model for model in entries().values() if model.name != OWN and MODEL not in dict(receipt.folders)]
    known = next((one for one in offers if receipt.model in (one.name, None if one.parts else one.source)), None)
    source = replace(receipt.source, name=known.name) if known else receipt.source
    budget = None if receipt.plan is None else receipt.plan.budget_bytes
    quality = receipt.quality or quality_of(receipt)
    return Settings(known.name if known else OWN, source, receipt.job, quality, budget, receipt.card or "")


def quality_of(receipt: streamline.Receipt) -> str:
    """The quality whose plan a receipt has that does not say it."""
    plan = receipt.plan
    if plan is None or plan.is_exact:
        return QUALITIES[0]
    return "fast" if any(line.startswith("quality: fast") for line in plan.reasons) else "balanced"


def restore(
    path: str | Path, gallery: Gallery, owner: str, typed: Source, picture: str | None, is_public: bool = False
) -> Restored:
    """What a file says, for an owner of runs.

    typed, picture: what stands in the fields. is_public: folders of this machine are not open.
    Raises InputError, one sentence, when there is no receipt in the file, or a folder that nobody has named.
    """
    receipt, runs = streamline.read_receipt(path), gallery.runs(owner)
    for run in runs:
        if run.receipt == receipt:
            return restore_run(run)
    settings, remarks = settings_of(receipt), []
    if not is_public:
        source, remark = _with_folders(receipt, settings, [run.settings.source for run in runs], typed)
        settings = replace(settings, source=source)
        remarks += [remark] if remark else []
    if receipt.dtype == "float8":
        remarks.append(
            "It was made with weights in 8 bits, which the page does not offer, so it will be another video."
        )
    found = _picture_of(receipt, runs, picture)
    if receipt.image is not None and found is None:
        remarks.append("Give it its picture again, which is not part of the file.")
    return Restored(settings, found, " ".join(remarks))


def restore_run(run: Run) -> Restored:
    """The same for a run of the gallery."""
    return Restored(run.settings, run.picture)


def _with_folders(
    receipt: streamline.Receipt, settings: Settings, earlier: Sequence[Source], typed: Source
) -> tuple[Source, str]:
    """The source with the places of folders that are known here, and what is to be said of one that was typed."""
    source, remark = settings.source, ""
    for part, called in receipt.names.items():
        if "/" in called or (part == MODEL and settings.model != OWN):
            continue
        places = [place for place in (_place(one, part) for one in (typed, *earlier)) if place]
        place = next((place for place in dict.fromkeys(places) if receipt.is_of(part, place)), _place(typed, part))
        if not place:
            label = OWN_MODEL.label if part == MODEL else streamline.all_halves()[part].label
            raise streamline.InputError(
                f"It was made with a folder called “{called}”, and the file does not say where that is: "
                f"type it under “{label}”, and bring the file again."
            )
        if not receipt.is_of(part, place):
            remark = f"The folder you typed is not the “{called}” that it was made with."
        given = {"name": place} if part == MODEL else {"parts": {**dict(source.parts), part: place}}
        source = replace(source, **given)
    return source, remark


def _place(source: Source, part: str) -> str:
    """Where a source has the model, or a half of it."""
    return source.name if part == MODEL else source.part(part) or ""


def _picture_of(receipt: streamline.Receipt, runs: Sequence[Run], shown: str | None) -> Path | None:
    """The picture of a receipt: of a run like it, the one that is shown, or an example."""
    if receipt.image is None:
        return None
    for run in runs:
        if run.receipt.image == receipt.image and run.picture is not None:
            return run.picture
    for path in filter(None, (shown, *PICTURES)):
        try:
            if receipt.starts_from(read_picture(path)):
                return Path(path)
        except streamline.InputError:
            continue
    return None
