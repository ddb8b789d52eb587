"""Two videos of one job on one web page: one HTML file with everything in it, which asks the network for nothing."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from ..running.events import Result
from ..sizes import format_bytes
from .metrics import WINDOW, psnr, ssim
from .receipt import Receipt
from .video import export


def report_html(original: Result, streamlined: Result, receipt: Receipt) -> str:
    """Return the page, as text: both videos under one slider and played in step, figures, and the receipt.

    receipt: of the streamlined run. Raises InputError for videos of different lengths or sizes.
    """
    frames, job = (original.frames, streamlined.frames), receipt.job
    decibels = psnr(*frames)
    is_small = min(frames[0][0].size) < WINDOW
    similarities = ["too small"] * len(decibels) if is_small else [f"{value:.4f}" for value in ssim(*frames)]
    return PAGE.substitute(
        title=escape(f"{receipt.model}: {job.prompt or 'from a picture'}"),
        about=escape(
            f"{job.num_frames} frames of {job.height}x{job.width}, {job.num_inference_steps} steps, seed {job.seed}, "
            f"on {receipt.device}, {receipt.date}"
        ),
        badge=escape(_badge(receipt)),
        original=_data_url(original, None),
        streamlined=_data_url(streamlined, receipt),
        memory=_bars("Peak memory", original.peak_bytes, streamlined.peak_bytes, format_bytes),
        seconds=_bars("Time", original.seconds, streamlined.seconds, lambda value: f"{value:.1f} s"),
        rows="".join(
            f"<tr><td>{index}<td>{_decibels(decibel)}<td>{similarity}"
            for index, (decibel, similarity) in enumerate(zip(decibels, similarities, strict=True), start=1)
        ),
        worst=escape(_decibels(min(decibels))),
        receipt=escape(receipt.to_json()),
    )


def _badge(receipt: Receipt) -> str:
    if receipt.exactness == "exact":
        return "exact: the same operators as the original, in another order"
    return "approximate: some steps reuse what an earlier one computed"


def _decibels(value: float) -> str:
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def _bars(title: str, original: float, streamlined: float, show: Callable[[float], str]) -> str:
    """Two bars, the longer one as long as there is room."""
    most = max(original, streamlined) or 1
    bars = "".join(
        f'<tr><th scope="row">{name}<td><i class="{name}" style="width:{100 * value / most:.1f}%"></i>'
        f"<td>{escape(show(value))}"
        for name, value in (("original", original), ("streamlined", streamlined))
    )
    ratio = f"{streamlined / original:.0%} of the original's" if original else ""
    return f"<table><caption>{title}: {ratio}</caption>{bars}</table>"


def _data_url(result: Result, receipt: Receipt | None) -> str:
    with TemporaryDirectory() as folder:
        video = export(result.frames, Path(folder) / "video.mp4", result.job.fps, receipt)
        return f"data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode()}"


PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; media-src data:">
<title>$title</title>
<style>
:root { color-scheme: light dark; --original: #8a8fa3; --streamlined: #5b5bd6; --line: #8884 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere }
.about { color: GrayText; margin: 0 0 .5rem }
.badge { display: inline-block; border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .8rem; margin: 0 }
.wipe { position: relative; margin: 1rem 0 .5rem; --cut: 50%; background: #000; overflow: hidden }
.wipe video { display: block; width: 100% }
.wipe #streamlined { position: absolute; inset: 0; height: 100%; clip-path: inset(0 0 0 var(--cut)) }
.wipe .edge { position: absolute; inset: 0 auto 0 var(--cut); width: 2px; margin-left: -1px; background: #fff }
.wipe span { position: absolute; top: .5rem; padding: 0 .6rem; border-radius: 1rem; background: #000a; color: #fff }
.controls { display: grid; grid-template-columns: auto 1fr; gap: .3rem 1rem; align-items: center }
input, button { font: inherit; accent-color: var(--streamlined) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem }
table { border-collapse: collapse; width: 100% }
caption { text-align: left; font-weight: 600; padding: .8rem 0 .2rem }
th { text-align: left; font-weight: 400; width: 6.5rem }
td { padding: .1rem .5rem .1rem 0; font-variant-numeric: tabular-nums; white-space: nowrap }
td:has(i) { width: 60% }
i { display: block; height: .9rem; border-radius: .2rem }
i.original { background: var(--original) } i.streamlined { background: var(--streamlined) }
pre { overflow: auto; padding: 1rem; border: 1px solid var(--line) }
</style>
<h1>$title</h1>
<p class="about">$about</p>
<p class="badge">$badge</p>
<div class="wipe" id="wipe">
  <video id="original" src="$original" muted loop playsinline></video>
  <video id="streamlined" src="$streamlined" muted loop playsinline></video>
  <div class="edge"></div>
  <span style="left:.5rem">original</span><span style="right:.5rem">streamlined</span>
</div>
<div class="controls">
  <label for="cut">Original up to here</label><input id="cut" type="range" min="0" max="100" step="0.1" value="50">
  <button id="play">Play</button><input id="time" type="range" min="0" max="1" step="0.001" value="0" aria-label="Time">
</div>
<div class="figures">$memory $seconds</div>
<details><summary>Frame by frame: PSNR at least $worst</summary>
<table><thead><tr><td>frame<td>PSNR<td>SSIM<tbody>$rows</table></details>
<details><summary>Receipt</summary><pre>$receipt</pre></details>
<script>
const [first, second, cut, time, play, wipe] =
  ["original", "streamlined", "cut", "time", "play", "wipe"].map(id => document.getElementById(id));
const follow = () => { second.currentTime = first.currentTime; };
cut.oninput = () => wipe.style.setProperty("--cut", cut.value + "%");
play.onclick = () => first.paused ? (first.play(), second.play()) : (first.pause(), second.pause(), follow());
first.onplay = first.onpause = () => { play.textContent = first.paused ? "Play" : "Pause"; };
time.oninput = () => { first.currentTime = time.value * (first.duration || 0); follow(); };
function keepInStep() {
  const drift = Math.abs(second.currentTime - first.currentTime);
  if (!first.paused && !second.seeking && Math.min(drift, first.duration - drift) > 0.06) follow();
  if (first.duration && document.activeElement !== time) time.value = first.currentTime / first.duration;
  requestAnimationFrame(keepInStep);
}
requestAnimationFrame(keepInStep);
first.play().then(() => second.play()).catch(() => {});
</script>
</html>
""")
