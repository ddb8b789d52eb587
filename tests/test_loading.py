"""An order that is cancelled while its model is loaded or fetched: nobody waits for it, and nothing is run on it."""

import threading
import time

import pytest
import untrained

import streamline
from streamline import Source
from ui import work
from ui.events import Loading, PartDone
from ui.gallery import Gallery
from ui.models import Pipelines
from ui.orders import Order, Part, Settings
from ui.service import Service

JOB = streamline.Job(height=32, width=32, num_frames=2, num_inference_steps=1, prompt="a cat")
SETTINGS = Settings("tiny-animatediff", Source("tiny-animatediff"), JOB, budget_bytes=2**30)
ORDER = Order("generate", SETTINGS, (Part("streamlined", streamline.Plan()),))


class Slow(Pipelines):
    """One pipeline, which the first to ask for it gets only once `fetched` is set, on the thread `first`."""

    def __init__(self):
        super().__init__()
        self.pipe = untrained.animatediff()
        self.fetched = threading.Event()
        self.first = None

    def get(self, source, dtype):
        if self.first is None:
            self.first = threading.current_thread()
            assert self.fetched.wait(30)
        return self.pipe


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.fetched.set()


def test_the_next_order_does_not_wait_for_what_a_cancelled_one_loads(slow, tmp_path, monkeypatch):
    placed = []
    monkeypatch.setattr(streamline, "place", lambda pipe, device: placed.append(threading.current_thread()) or pipe)
    service = Service(lambda order, stop: work.make(order, stop, slow), Gallery(tmp_path))
    cancelled, following = service.submit("ann", ORDER), service.submit("ann", ORDER)
    _until(lambda: slow.first is not None)
    service.cancel("ann", cancelled)
    _until(lambda: service.view("ann", following).is_over)
    assert service.view("ann", following).status == "done" and not slow.fetched.is_set()
    slow.fetched.set()
    slow.first.join(10)
    assert len(placed) == 1 and slow.first not in placed, "the one that was given up ran after all"


def test_an_order_cancelled_just_before_its_model_comes_is_not_run(slow, tmp_path):
    stop = tmp_path / "stop"
    events = work.make(ORDER, str(stop), slow)
    assert next(events) == Loading()
    stop.touch()
    slow.fetched.set()
    assert list(events) == []


def test_a_slow_model_is_waited_for(slow, tmp_path):
    events = work.make(ORDER, str(tmp_path / "stop"), slow)
    assert next(events) == Loading()
    threading.Timer(3 * work.POLL_SECONDS, slow.fetched.set).start()
    *_, last = events
    assert type(last) is PartDone


def _until(is_so, seconds=10):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
