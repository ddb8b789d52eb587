"""The Gallery and Compare tabs without a browser, with videos that no model made."""

import gc
import logging
import queue
import tempfile
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

import streamline
from streamline import Source
from streamline.output.receipt import Measured
from ui import compare_tab, comparing, gallery_tab
from ui.events import Failed, PartDone, PartStarted, Stepped
from ui.gallery import Gallery
from ui.models import Profile
from ui.orders import Order, Part, Settings
from ui.service import REMEMBERED, Service, View
from ui.state import NOBODY, Studio

JOB = streamline.Job(height=32, width=32, num_frames=2, num_inference_steps=1, prompt="a cat")
SETTINGS = Settings("tiny-animatediff", Source("tiny-animatediff"), JOB, budget_bytes=2**30)
PLAN = streamline.Plan.uniform(2)
ORDER = Order("generate", SETTINGS, (Part("streamlined", PLAN),))
STAGE = streamline.StagePrediction("denoise", 1, 1.0, 2**19, 2**19, 0, 0, 0)
NEEDS = streamline.Prediction((STAGE,), "modelled", 0.1, 0.1)
COMPARISON = replace(ORDER, kind="compare", parts=(Part("original", None, NEEDS), Part("streamlined", PLAN)))
SWEEP = replace(ORDER, kind="sweep", parts=(Part("original", None), Part("exact", PLAN), Part("fast", PLAN)))
FORM = {
    "model": "tiny-animatediff", "prompt": "a cat", "image": None, "width": 32, "height": 32, "frames": 2, "steps": 1,
    "guidance": 3.0, "fps": 8, "seed": 2, "quality": "exact", "own": "", "negative_prompt": "",
    "card": "", "budget": "",
}  # fmt: skip


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


def test_a_video_of_the_gallery_is_played_and_taken_home_by_its_owner_alone(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    service, result = Service(lambda order, stop: iter(()), Gallery(tmp_path)), result_of(PLAN)
    name = service.gallery.add("ann", ORDER, result, receipt_of(result))
    with gr.Blocks() as page:
        tab = gallery_tab.build(Studio(service, None), gr.BrowserState(None))
    functions = {function.name: function.fn for function in page.fns.values()} | {"show": tab.show}
    chosen = gr.EventData(None, {"run": name})

    def do(what, *given):
        answer = functions[what](*given)
        return {part.elem_id or type(part).__name__: value for part, value in answer.items()}

    ann, bob = {"visitor": "ann"}, {"visitor": "bob"}
    played = do("play", chosen, ann)
    assert played["player"]["visible"] and Path(played["player-video"]).is_file() and played["State"] == name
    *_, (_, written) = functions["export"](".webm", 30, ann, name)
    assert streamline.read_receipt(functions["put"](written, name)["value"]) == receipt_of(result)
    assert "value" not in functions["put"](written, "another") and "value" not in functions["put"](("", ""), "")
    for stranger in (bob, None):
        assert not do("play", chosen, stranger)["player"]["visible"]
        assert not [*functions["export"](".webm", 30, stranger, name)]
        do("delete", chosen, stranger, "")
    assert "player" not in do("show", ann, name) and service.gallery.get("ann", name) is not None
    assert not do("delete", chosen, ann, name)["player"]["visible"]
    assert not [*temporary.glob("streamline-download-*")]


class Tab:
    """The Compare tab, over a service that makes what `say` tells it; what it answers is by element or type."""

    def __init__(self, folder):
        self._events, self._told = queue.Queue(), threading.Semaphore(0)
        self.service, self.planned = Service(self._make, Gallery(folder)), []
        planner = SimpleNamespace(
            profile=lambda source, entry: Profile("text-to-video", JOB),
            full_plan=lambda settings: self.planned.append(settings),
            comparison=lambda outlook, image: COMPARISON,
            sweep=lambda outlook, qualities, points, image: SWEEP,
        )
        with gr.Blocks() as page:
            browser, fields = gr.BrowserState(None), {name: gr.State() for name in FORM}
            self._open_page = compare_tab.build(Studio(self.service, planner), browser, fields).open_page
        self._functions = {function.name: function.fn for function in page.fns.values()}
        self.browser, self._seen = NOBODY | {"visitor": "ann"}, ("", -1, -1)

    def do(self, name, *given):
        function = self._functions.get(name, self._open_page)
        more = {"start_comparison": FORM.values(), "start_sweep": FORM.values(), "tick": [self._seen]}.get(name, ())
        answer = {
            part.elem_id or type(part).__name__: value for part, value in function(*given, self.browser, *more).items()
        }
        self.browser = answer.get("BrowserState", self.browser)
        self._seen = answer.get("State", self._seen)
        return answer

    def say(self, *events):
        """Have the service told of events, and wait until it knows."""
        for event in events:
            self._events.put(event)
            assert self._told.acquire(timeout=10)

    def end(self):
        self._events.put(None)
        self.until(lambda: self.view.is_over)

    def _make(self, order, stop):
        for event in iter(self._events.get, None):
            yield event
            self._told.release()

    @property
    def view(self):
        return self.service.view("ann", self.browser["compare"])

    def until(self, is_so, seconds=10):
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end
            time.sleep(0.01)


def done(index, result):
    return PartDone(index, result, receipt_of(result))


@pytest.fixture
def tab(tmp_path):
    tab = Tab(tmp_path)
    yield tab
    tab._events.put(None)


@pytest.mark.parametrize("again", [("start_comparison",), ("start_sweep", ["exact"], 1)])
def test_an_order_that_is_being_made_is_not_lost_to_a_second_one(tab, again):
    tab.do("start_comparison")
    first = tab.browser["compare"]
    answer = tab.do(*again)
    assert answer == {"compare-note": "<p>Your last comparison is still being made; cancel it first.</p>"}
    assert tab.browser["compare"] == first
    assert tab.do("cancel")["compare-note"] == ""
    assert tab.do(*again)["compare-note"] == "" and tab.browser["compare"] != first


@pytest.mark.parametrize("again", [("start_comparison",), ("start_sweep", ["exact"], 1)])
def test_a_tab_that_knows_of_no_order_is_refused_too_and_watches_the_one_there_is(tab, again):
    tab.do("start_comparison")
    first = tab.browser["compare"]
    tab.browser = NOBODY | {"visitor": "ann"}
    answer = tab.do(*again)
    assert "still being made" in answer["compare-note"] and tab.browser["compare"] == first
    assert len(tab.planned) == 1, "it is refused before it is planned, which may take a while"
    assert answer["compare-stop"]["interactive"] and "run 1 of 2" in answer["compare-progress"]
    assert tab.do("cancel")["compare-note"] == "" and tab.view.status == "cancelled"


@pytest.mark.parametrize("kind", ["generate", "compare", "sweep"])
def test_of_orders_that_race_one_is_taken(tab, kind):
    orders = [replace(ORDER, kind=kind), SWEEP if kind == "compare" else replace(ORDER, kind=kind)]
    for _ in range(20):
        start, taken, refused = threading.Barrier(8), [], []

        def submit(order, start=start, taken=taken, refused=refused):
            start.wait()
            try:
                taken.append(tab.service.submit("ann", order, alone=True))
            except streamline.InputError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=submit, args=(orders[index % 2],)) for index in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(taken) == 1 and len(refused) == 7
        assert tab.service.submit("bob", ORDER, alone=True)
        tab.service.cancel("ann", taken[0])
        tab.service.cancel("bob", tab.service.running("bob", "generate").id)


def test_runs_of_a_sweep_are_measured_once_and_their_frames_let_go(tab, monkeypatch):
    measured, psnr = [], streamline.psnr
    monkeypatch.setattr(streamline, "psnr", lambda *videos: measured.append(videos) or psnr(*videos))
    tab.do("start_sweep", ["exact", "fast"], 1)
    tab.until(lambda: tab.view.status == "loading")
    assert "sweep-table" in tab.do("tick")
    original = result_of(None)
    frame = weakref.ref(original.frames[0])
    for index, result in enumerate([original, result_of(PLAN), result_of(PLAN, grey=9)]):
        tab.say(PartStarted(index, 2**19), Stepped(0, 1, 0.1, 1, 1))
        assert "sweep-table" not in tab.do("tick")
        tab.say(done(index, result))
        assert "sweep-table" in tab.do("tick")
    assert all(result.frames == () for result in tab.view.results)
    tab.end()
    table = tab.do("open_page")["sweep-table"]
    assert "identical" in table and table.count(" dB") == 1 and len(measured) == 2
    measured.clear()
    del original, result
    tab.until(lambda: gc.collect() is not None and frame() is None)


def test_a_sweep_without_its_original_tells_no_likeness(tab):
    tab.do("start_sweep", ["exact"], 1)
    tab.until(lambda: tab.view.status == "loading")
    tab.say(done(1, result_of(PLAN)), Failed("Enough."))
    assert tab.view.psnr == ((), (), ()) and " dB" not in tab.do("tick")["sweep-table"]


def test_a_finished_comparison_is_worked_out_once(tab, monkeypatch):
    written, report_html = [], streamline.report_html
    monkeypatch.setattr(streamline, "report_html", lambda *given: written.append(given) or report_html(*given))
    tab.do("start_comparison")
    tab.until(lambda: tab.view.status == "loading")
    tab.say(done(0, result_of(None)), done(1, result_of(PLAN)))
    tab.end()
    shown = [tab.do(name) for name in ("tick", "open_page", "open_page")]
    (path,) = {answer["report"]["value"] for answer in shown}
    assert Path(path).name == "comparison.html" and Path(path).is_file() and len(written) == 1
    assert all("PSNR" in answer["figures"] and "<video" in answer["wipe"] for answer in shown)


def test_reports_of_comparisons_that_are_forgotten_are_removed(tab, monkeypatch):
    monkeypatch.setattr(comparing, "wipe", lambda view: "")
    monkeypatch.setattr(streamline, "report_html", lambda *given: "")
    results = result_of(None), result_of(PLAN)
    receipts = tuple(map(receipt_of, results))
    view, comparisons = View("", COMPARISON, results=results, receipts=receipts), comparing.Comparisons()
    paths = [Path(comparisons.of(replace(view, id=str(index))).report) for index in range(REMEMBERED + 2)]
    assert [path.exists() for path in paths] == [False] * 2 + [True] * REMEMBERED
    assert not paths[0].parent.exists()
    del comparisons
    gc.collect()
    assert not paths[-1].exists()
