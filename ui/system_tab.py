"""The System tab: what is here to run on, what was measured of it, what is wrong, and what is kept on the disk."""

from __future__ import annotations

import platform
import shutil
from html import escape
from importlib.metadata import version
from pathlib import Path

import gradio as gr
from huggingface_hub.constants import HF_HUB_CACHE

import streamline

from . import words
from .asking import ask_first
from .looking import QUICK
from .state import Studio, known
from .style import html

PACKAGES = ("streamline", "torch", "diffusers", "transformers", "gradio")
FIGURES = (
    ("total_bytes", "Memory"),
    ("free_bytes", "Free now"),
    ("used_by_others_bytes", "Used by other programs"),
    ("own_bytes", "Used by this one"),
    ("context_bytes", "Taken by the driver"),
)

LOOKING = '<div class="panel doctor"><h3>Is everything all right?</h3><p class="muted">Looking …</p></div>'


def build(studio: Studio, browser: gr.BrowserState, tab: gr.Tab) -> None:
    """Lay the tab out and connect it; what it shows is read anew whenever it is opened."""
    findings = html(LOOKING, elem_id="doctor")
    devices = html("", elem_id="devices")
    with gr.Row():
        refresh = gr.Button("Read again", elem_id="refresh")
        measure = gr.Button("Measure how fast it is", elem_id="measure", visible=not studio.is_public)
    kept = html("", elem_id="kept")
    with gr.Row():
        clear_cache = gr.Button(
            "Clear what was learnt about this machine", elem_id="clear-cache", visible=not studio.is_public
        )
        clear_gallery = gr.Button("Delete all videos of this browser", variant="stop", elem_id="clear-gallery")

    def what_is_learnt():
        return (
            f"Forget the {words.size(_size(streamline.cache_folder()))} learnt about this machine? The first plan of "
            "each model will take some seconds again, and predictions will be further off until a few videos are made."
        )

    def what_is_made(browser):
        visitor = known(browser)["visitor"]
        runs = words.count(len(studio.service.gallery.runs(visitor)), "video")
        size = words.size(studio.service.gallery.size_bytes(visitor))
        return f"Delete all videos of this browser ({runs}, {size})? Nothing brings them back."

    forget_sure = ask_first(clear_cache, what_is_learnt, [], "Yes, forget it")
    delete_sure = ask_first(clear_gallery, what_is_made, [browser], "Yes, delete them")

    def show(browser):
        visitor = known(browser)["visitor"]
        return (
            device_cards(measured=False),
            kept_panel(studio, visitor),
            gr.update(interactive=bool(studio.service.gallery.runs(visitor))),
            gr.update(interactive=_size(streamline.cache_folder()) > 0),
        )

    def show_measured():
        if not studio.service.is_idle:
            raise gr.Error(
                "A video is being made, which would be measured with it; try again after it.", print_exception=False
            )
        return device_cards(measured=True)

    def forget():
        shutil.rmtree(streamline.cache_folder(), ignore_errors=True)
        studio.planner.forget()

    def delete_all(browser):
        studio.service.gallery.clear(known(browser)["visitor"])

    shown = [devices, kept, clear_gallery, clear_cache]
    gr.on([tab.select, refresh.click], show, browser, shown, **QUICK)
    gr.on([tab.select, refresh.click], lambda: doctor(studio), None, findings, **QUICK)
    measure.click(show_measured, None, devices, api_visibility="private")
    forget_sure.click(forget, None, None, **QUICK).then(show, browser, shown, **QUICK)
    delete_sure.click(delete_all, browser, None, **QUICK).then(show, browser, shown, **QUICK)


def doctor(studio: Studio) -> str:
    """What is wrong, and how to mend it."""
    rows = "".join(
        f'<div class="finding {escape(finding.level)}"><p><b>{escape(finding.what)}</b></p>'
        + (f'<p class="muted">{escape(finding.remedy)}</p>' if finding.remedy else "")
        + "</div>"
        for finding in streamline.examine(studio.service.gallery.folder, offline=studio.is_offline)
        if finding.level != "ok"
    )
    rows = rows or '<div class="finding"><p><b>Yes: nothing is wrong.</b></p></div>'
    return f'<div class="panel doctor"><h3>Is everything all right?</h3>{rows}</div>'


def device_cards(measured: bool) -> str:
    """A card for every device, and one for the versions. measured: rates are measured where they are not known."""
    cards = "".join(_device(device, measured) for device in streamline.detect_all())
    return f'<div class="system">{cards}{_versions()}</div>'


def _device(device: streamline.Device, measured: bool) -> str:
    sources = dict(device.sources)
    rows = "".join(
        f"<dt>{label}</dt><dd>{words.size(getattr(device, name))}{_small(sources.get(name))}</dd>"
        for name, label in FIGURES
    )
    rows += f"<dt>Number types</dt><dd>{', '.join(device.dtypes)}{_small(sources.get('dtypes'))}</dd>"
    if device.version:
        rows += f"<dt>Driver</dt><dd>{escape(device.version)}</dd>"
    rows += f"<dt>Budget by default</dt><dd>{words.size(streamline.default_budget(device))}</dd>"
    rates = streamline.rates_of(device) if measured else None
    if rates is not None:
        rows += "".join(f"<dt>Speed in {name}</dt><dd>{rate / 1e12:,.2f} TFLOP/s</dd>" for name, rate in rates.flops)
        rows += f"<dt>Memory moved</dt><dd>{rates.bandwidth / 1e9:,.1f} GB/s{_small(rates.source)}</dd>"
        rows += f"<dt>Starting an operation</dt><dd>{rates.launch_seconds * 1e6:.1f} µs</dd>"
    kind = {"cuda": "Graphics card", "mps": "Apple GPU", "cpu": "Processor and main memory"}[device.kind]
    return f'<div class="panel"><h3>{kind}</h3><p>{escape(device.name)}</p><dl class="facts">{rows}</dl></div>'


def _small(text: str | None) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def _versions() -> str:
    rows = f"<dt>Python</dt><dd>{platform.python_version()}</dd><dt>System</dt><dd>{escape(platform.platform())}</dd>"
    for package in PACKAGES:
        try:
            rows += f"<dt>{package}</dt><dd>{version(package)}</dd>"
        except ImportError:  # run from its repository, it is not installed
            continue
    return f'<div class="panel"><h3>Versions</h3><dl class="facts">{rows}</dl></div>'


def kept_panel(studio: Studio, visitor: str) -> str:
    """What takes room on the disk."""
    hub = Path(HF_HUB_CACHE)
    rows = (
        ("Videos of this browser", studio.service.gallery.folder, studio.service.gallery.size_bytes(visitor)),
        ("Learnt about this machine", streamline.cache_folder(), _size(streamline.cache_folder())),
        ("Downloaded models", hub, _size(hub)),
    )
    text = "".join(f"<dt>{label}</dt><dd>{words.size(size)}{_small(str(folder))}</dd>" for label, folder, size in rows)
    free = shutil.disk_usage(Path.cwd()).free
    text += f"<dt>Free on the disk</dt><dd>{words.size(free)}</dd>"
    return f'<div class="panel"><h3>Kept on the disk</h3><dl class="facts">{text}</dl></div>'


def _size(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
