"""The Gallery and Compare tabs without a browser, with videos that no model made."""

import logging

import pytest
from PIL import Image

import streamline
from streamline.output.receipt import Measured
from ui import gallery_tab
from ui.gallery import Gallery
from ui.models import Source
from ui.orders import Order, Part, Settings

JOB = streamline.Job(height=32, width=32, num_frames=2, num_inference_steps=1, prompt="a cat")
SETTINGS = Settings("tiny-animatediff", Source("tiny-animatediff"), JOB, budget_bytes=2**30)
PLAN = streamline.Plan.uniform(2)
ORDER = Order("generate", SETTINGS, (Part("streamlined", PLAN),))


def result_of(plan, grey=0):
    frames = (Image.new("RGB", (32, 32), (grey, grey, grey)),) * JOB.num_frames
    return streamline.Result(frames, JOB, plan, "cpu", 1.0, (1.0,), 0.1, 2**20, 2**19)


def receipt_of(result):
    method = "original" if result.plan is None else "streamlined"
    measured = Measured(result.peak_bytes, result.weights_bytes, result.seconds, result.step_seconds, 0.1)
    return streamline.Receipt(
        "tiny-animatediff", JOB, result.plan, method, "cpu", "float32", (), measured, "2026-01-01T00:00:00Z"
    )


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_a_run_whose_thumbnail_cannot_be_read_leaves_the_others_in_the_gallery(tmp_path, content, caplog):
    gallery, result = Gallery(tmp_path), result_of(PLAN)
    names = [gallery.add("ann", ORDER, result, receipt_of(result)) for _ in range(2)]
    broken = gallery.get("ann", names[0]).thumbnail
    broken.unlink() if content is None else broken.write_bytes(content)
    with caplog.at_level(logging.WARNING, "streamline.app"):
        cards = gallery_tab.cards(gallery.runs("ann"))
    assert cards.count("<article") == 1 and names[1] in cards
    assert len(caplog.records) == 1 and names[0] in caplog.text
    gallery.delete("ann", names[1])
    assert "appear here" in gallery_tab.cards(gallery.runs("ann"))
