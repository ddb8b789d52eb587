"""The log of the server: one line an event, each a JSON object, and nobody's words in it."""

import json
import logging
import time

from PIL import Image

import streamline
from streamline import Source
from ui.events import Failed
from ui.gallery import Gallery
from ui.journal import Lines, note
from ui.orders import Order, Part, Settings
from ui.service import Service

JOB = streamline.Job(height=64, width=64, num_frames=2, num_inference_steps=3, prompt="my secret wish")
SETTINGS = Settings("tiny-animatediff", Source("tiny-animatediff"), JOB, budget_bytes=2**30)
ORDER = Order("generate", SETTINGS, (Part("streamlined", streamline.Plan()),), Image.new("RGB", (8, 8)))


def lines_of(caplog):
    return [Lines().format(record) for record in caplog.records]


def test_an_order_leaves_a_line_when_it_comes_and_when_it_ends(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "streamline.app"):
        service = Service(lambda order, stop: iter([Failed("It was too large.")]), Gallery(tmp_path))
        name = service.submit("ann's secret", ORDER)
        list(service.follow("ann's secret", name))
        _wait(caplog)
    came, ended = (json.loads(line) for line in lines_of(caplog))
    assert (came["event"], came["order"], came["size"], came["steps"]) == ("submitted", name, "64x64", 3)
    assert (ended["event"], ended["order"], ended["trouble"]) == ("failed", name, "It was too large.")
    assert not any("secret" in line or "\n" in line for line in lines_of(caplog))


def test_an_error_is_one_line_that_says_where(caplog):
    with caplog.at_level(logging.INFO, "streamline.app"):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("streamline.app").exception("it broke")
        note("odd", path=object())
    broke, odd = lines_of(caplog)
    assert json.loads(broke)["error"] == "ValueError" and "test_journal.py:" in json.loads(broke)["at"][0]
    assert json.loads(odd)["event"] == "odd" and "\n" not in broke + odd


def _wait(caplog, seconds=10):
    """The line is written just after the order is over."""
    until = time.monotonic() + seconds
    while len(caplog.records) < 2 and time.monotonic() < until:
        time.sleep(0.01)
