"""The page without a browser: every end of a run is a reading, and nothing of it stays behind."""

import gc
import re
import threading
import weakref
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
import untrained
from PIL import Image

import streamline
import ui
from ui.readout import Run, show_runs


@pytest.fixture
def pipe(monkeypatch):
    """What every model turns out to be."""
    pipe = untrained.animatediff()
    monkeypatch.setattr(streamline, "load", lambda name: pipe)
    return pipe


@pytest.fixture
def demo():
    return ui.build()


def make(demo, *, slices=2, steps=3, session="visitor"):
    """The page's readings, as it shows them, until the run is over; an error at the end is left out."""
    given = ("tiny-animatediff", "a cat", None, "Streamlined", slices, steps, 4, 1, 0, [])
    try:
        for _, reading, *_ in handler(demo, "make")(*given, SimpleNamespace(session_hash=session)):
            yield reading
    except gr.Error:
        pass


def stop(demo, session="visitor"):
    handler(demo, "end")(SimpleNamespace(session_hash=session))


def handler(demo, name):
    return next(function.fn for function in demo.fns.values() if function.name == name)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "Memory is not enough; slice more finely"),
        (MemoryError(), "Memory is not enough; slice more finely"),
        (KeyError("a\nb"), "Something went wrong: KeyError: &#x27;a\\nb&#x27;."),
        (RuntimeError("First.\nSecond."), "Something went wrong: RuntimeError: First."),
        (streamline.InputError("Too blue."), "Too blue."),
    ],
)
def test_every_error_is_a_sentence(demo, pipe, monkeypatch, error, sentence):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(pipe.scheduler, "step", fail)
    *_, last = make(demo)
    assert "Not made" in last and sentence in last and "Second" not in last


def test_a_failed_run_leaves_nothing_in_memory(demo, pipe, monkeypatch):
    alive = []

    def fail(noise, *args, **kwargs):
        alive.append(weakref.ref(noise))
        try:
            raise RuntimeError("Odd.")
        except RuntimeError as error:
            raise ValueError("Very odd.") from error

    monkeypatch.setattr(pipe.scheduler, "step", fail)
    gc.disable()
    try:
        *_, last = make(demo)
        assert "Very odd." in last
        assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("slices", [2.5, None, 0])
def test_slices_that_are_no_number_are_a_sentence(demo, slices):
    *_, last = make(demo, slices=slices)
    assert "Not made" in last and "must be a whole number of at least 1" in last


def test_the_slider_gives_whole_numbers(demo):
    assert next(block for block in demo.blocks.values() if isinstance(block, gr.Slider)).preprocess(2.5) == 2


def test_who_waits_for_another_run_is_told_and_can_stop(demo, pipe):
    first, second = make(demo, session="first"), make(demo, session="second")
    while "Denoising" not in next(first):
        pass
    assert "Waiting for another run" in next(second)
    stop(demo, "second")
    assert "Stopped" in next(second)
    *_, last = first
    assert "Done" in last


def test_stop_is_heard_while_the_model_loads(demo, pipe, monkeypatch):
    loaded = threading.Event()
    monkeypatch.setattr(streamline, "load", lambda name: loaded.wait(60) and pipe)
    readings = make(demo)
    while "Loading the model" not in next(readings):
        pass
    stop(demo)
    assert "Stopped" in next(readings)
    loaded.set()
    *_, last = make(demo)
    assert "Done" in last


def test_a_transparent_picture_comes_as_it_is(demo, tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8)).save(path)
    image = next(block for block in demo.blocks.values() if isinstance(block, gr.Image))
    assert image.preprocess(gr.image_utils.ImageData(path=str(path))).mode == "RGBA"


def test_bars_fit_where_offloaded_weights_are_never_there_at_once():
    rows = show_runs([Run("offloaded", 1.0, peak_bytes=50, weights_bytes=80)])
    assert re.findall(r"width: (.*?)%", rows) == ["100.0", "0.0"]
