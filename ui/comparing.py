"""How alike two videos are and what each took, as HTML, from a view; of finished comparisons it is kept."""

from __future__ import annotations

import base64
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean

import streamline

from . import charts, panels, words
from .service import REMEMBERED, View

IDENTICAL = 100.0  # dB; frames that do not differ have no PSNR


@dataclass(frozen=True)
class Comparison:
    """A finished comparison as it is shown. report: path of it as one web page; None where there is only one video."""

    wipe: str
    figures: str
    report: str | None


class Comparisons:
    """Finished comparisons, each worked out once, for that takes a while; as many are kept as orders are."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Comparison] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory(prefix="streamline-reports-")
        self._lock = threading.Lock()

    def of(self, view: View) -> Comparison:
        with self._lock:
            if view.id not in self._kept:
                self._kept[view.id] = Comparison(wipe(view), figures(view), self._report(view))
                if len(self._kept) > REMEMBERED:
                    oldest, _ = self._kept.popitem(last=False)
                    shutil.rmtree(self._home(oldest), ignore_errors=True)
            return self._kept[view.id]

    def _home(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _report(self, view: View) -> str | None:
        original, streamlined = view.results
        if original is None:
            return None
        path = self._home(view.id) / "comparison.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(streamline.report_html(original, streamlined, view.receipts[1]), encoding="utf-8")
        return str(path)


def decibels(psnr: Iterable[float]) -> list[float]:
    """PSNR of every frame, IDENTICAL at most."""
    return [min(IDENTICAL, value) for value in psnr]


def likeness(first: streamline.Result, second: streamline.Result) -> tuple[list[float], list[float]]:
    """PSNR in dB (IDENTICAL at most) and SSIM of every frame, none of the latter where frames are too small for it."""
    psnr = decibels(streamline.psnr(first.frames, second.frames))
    try:
        return psnr, list(streamline.ssim(first.frames, second.frames))
    except streamline.InputError:
        return psnr, []


def wipe(view: View) -> str:
    """Two videos in step, one wiped over the other; one alone where the original does not fit."""
    original, streamlined = view.results
    ways = (
        '<label>Look <select aria-label="How to look at them"><option value="over">one over the other</option>'
        '<option value="side">side by side</option><option value="difference">their difference, brightened</option>'
        "</select></label>"
    )
    if original is None:
        return (
            f'<div class="wipe over"><div class="pair">{_video(streamlined, "lower")}<span class="tag left">streamlined'
            f'</span></div><div class="controls"><span>{_refusal(view)}</span></div></div>'
        )
    return (
        f'<div class="wipe over" style="--cut:50%"><div class="pair">{_video(original, "lower")}'
        f'{_video(streamlined, "upper")}<i class="edge"></i><span class="tag left">original</span>'
        '<span class="tag right">streamlined</span></div><div class="controls">'
        '<button type="button" class="action" data-pause>Pause</button>'
        '<input type="range" name="cut" min="0" max="100" value="50" aria-label="Where the videos meet">'
        f"{ways}</div></div>"
    )


def _video(result: streamline.Result, place: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = streamline.export(result.frames, Path(folder) / "video.mp4", result.job.fps)
        data = base64.b64encode(path.read_bytes()).decode()
    return f'<video class="{place}" muted loop autoplay playsinline src="data:video/mp4;base64,{data}"></video>'


def _refusal(view: View) -> str:
    part = view.order.parts[0]
    needs = words.size_up(part.prediction.peak_bytes)
    return f"The original would need {needs}, more than there is, so it was not run."


def figures(view: View) -> str:
    """Memory and seconds of both as bars, and how alike the frames are."""
    first, (original, streamlined) = view.order.parts[0], view.results
    needs = first.prediction.peak_bytes
    if original is None:
        peaks = [
            ("original", needs, f"would need {words.size_up(needs)}", "refused"),
            ("streamlined", streamlined.peak_bytes, words.size(streamlined.peak_bytes), "streamlined"),
        ]
        times = [("streamlined", streamlined.seconds, words.duration(streamlined.seconds), "streamlined")]
        ratio, pace, alike = needs / streamlined.peak_bytes, "", ""
    else:
        peaks = [
            (name, one.peak_bytes, words.size(one.peak_bytes), name)
            for name, one in (("original", original), ("streamlined", streamlined))
        ]
        times = [
            (name, one.seconds, words.duration(one.seconds), name)
            for name, one in (("original", original), ("streamlined", streamlined))
        ]
        ratio = original.peak_bytes / streamlined.peak_bytes
        pace = f"<div><b>{streamlined.seconds / original.seconds:.2f} ×</b><span>its time</span></div>"
        alike = _alike(view)
    return (
        '<div class="panel comparison"><h3>Side by side</h3>'
        f"{panels.badge(view.receipts[1], view.receipts[1].fidelity)}"
        f'<div class="headline"><div><b>{ratio:.2f} ×</b><span>less memory than the original</span></div>{pace}</div>'
        f"<h4>Memory at the worst moment</h4>{charts.ratio_bars(peaks)}<h4>Time, after a warm-up</h4>"
        f"{charts.ratio_bars(times)}{alike}</div>"
    )


def _alike(view: View) -> str:
    psnr, ssim = likeness(*view.results)
    same = all(value >= IDENTICAL for value in psnr)
    said = "identical in every frame" if same else f"{fmean(psnr):.1f} dB on average"
    bars = f"<h4>PSNR, frame by frame: {said}</h4>{charts.frame_bars(psnr, IDENTICAL if same else 60.0, 'dB')}"
    if ssim:
        bars += f"<h4>SSIM, frame by frame: {fmean(ssim):.4f} on average</h4>{charts.frame_bars(ssim, 1.0, '')}"
    return bars


def grid(view: View) -> str:
    """A table of every run of a sweep: what it took, and how close it came to the original."""
    rows = ""
    for part, result, psnr in zip(view.order.parts, view.results, view.psnr, strict=True):
        if part.is_skipped:
            rows += (
                f"<tr><td>{escape(part.label)}</td><td>would need {words.size_up(part.prediction.peak_bytes)}</td>"
                "<td>–</td><td>–</td></tr>"
            )
        elif result is None:
            rows += f"<tr><td>{escape(part.label)}</td><td>…</td><td>…</td><td>…</td></tr>"
        else:
            close = "–"
            if psnr:
                mean = fmean(decibels(psnr))
                close = "identical" if mean >= IDENTICAL else f"{mean:.1f} dB"
            rows += (
                f"<tr><td>{escape(part.label)}</td><td>{words.size(result.peak_bytes)}</td>"
                f"<td>{words.duration(result.seconds)}</td><td>{close}</td></tr>"
            )
    return (
        '<div class="panel sweep"><h3>The sweep</h3><div class="scroll"><table class="figures"><thead><tr>'
        "<th>quality, budget</th><th>memory</th><th>time</th><th>PSNR</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></div>"
    )
