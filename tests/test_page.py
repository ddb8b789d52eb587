"""The page without a browser: what stands in the fields and what it means, the queue, the gallery, the charts."""

import re
import threading
import time
from dataclasses import replace

import pytest
import torch
import untrained
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import streamline
from streamline import Source
from ui import charts, estimating, panels, words, work
from ui.estimating import Target
from ui.events import Failed, Loading, Noted, PartDone, PartStarted, Stepped
from ui.fields import PICTURES, budget_text
from ui.form import read, read_picture
from ui.gallery import Gallery
from ui.models import Pipelines, Profile, entries
from ui.orders import Order, Part, Settings
from ui.planning import Planner
from ui.restoring import Restored, restore, settings_of
from ui.service import MOST_WAITING, Service

JOB = streamline.Job(height=64, width=64, num_frames=4, num_inference_steps=3, prompt="a cat")
SETTINGS = Settings("tiny-animatediff", Source("tiny-animatediff"), JOB, budget_bytes=2**30)
ORDER = Order("generate", SETTINGS, (Part("streamlined", streamline.Plan.uniform(2)),))
FORM = dict(  # noqa: C408
    model="tiny-animatediff", own="", base="", motion_adapter="", prompt="a cat", negative_prompt="", image=None,
    width=64, height=64, frames=8, steps=25, guidance=3.0, motion=127, fps=8, noise=0.02, seed=2, quality="exact",
    card="", budget="",
)  # fmt: skip


class Lent(Pipelines):
    """One untrained pipeline, whatever is asked for."""

    def __init__(self, pipe):
        super().__init__()
        self.pipe = pipe

    def get(self, source, dtype):
        return self.pipe


@pytest.fixture
def lent():
    return Lent(untrained.animatediff())


def profile(source, entry):
    is_image = entry.task == "image-to-video"
    return Profile(entry.task, replace(JOB, prompt="") if is_image else JOB)


def wait(service, owner, name):
    *_, view = service.follow(owner, name)
    return view


def test_a_good_form_has_no_notes():
    reading = read(FORM, profile, for_run=True)
    assert reading.is_complete and reading.settings.job.seed == 2


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"prompt": " "}, "prompt", "Write what"),
        ({"prompt": "x" * 10_000}, "prompt", "10,000 characters"),
        ({"seed": -1}, "seed", "whole number from 0"),
        ({"seed": float("nan")}, "seed", "whole number"),
        ({"seed": None}, "seed", "Fill in a number"),
        ({"frames": 2.5}, "frames", "whole number"),
        ({"frames": 0}, "frames", "from 1"),
        ({"width": 65}, "width", "multiple of 8"),
        ({"guidance": float("inf")}, "guidance", "must be a number"),
        ({"budget": "lots"}, "budget", "like 8GiB"),
        ({"card": "a boat"}, "budget", "No card"),
        ({"quality": "perfect"}, "quality", "exact"),
        ({"model": "own"}, "model", "Type a folder"),
        ({"model": "nothing"}, "model", "Choose a model"),
        ({"model": "tiny-svd"}, "image", "Give a picture"),
    ],
)
def test_a_wrong_field_is_a_sentence_of_its_own(changes, field, sentence):
    reading = read(FORM | changes, profile, for_run=True)
    assert list(reading.notes) == [field] and sentence in reading.notes[field]


@pytest.mark.parametrize("prompt", ["🎈🎈", "ein Käfer", "<script>alert(1)</script>"])
def test_any_words_will_do(prompt):
    assert read(FORM | {"prompt": prompt}, profile, for_run=True).is_complete


def test_pictures_are_read_or_refused_in_a_sentence(tmp_path):
    assert read_picture(PICTURES[0]).width > 0
    bad = tmp_path / "bad.png"
    for content in (b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        bad.write_bytes(content)
        with pytest.raises(streamline.InputError, match=r"bad\.png cannot be read as a picture"):
            read_picture(str(bad))
    Image.new("RGB", (1, 1)).save(bad)
    with pytest.raises(streamline.InputError, match="1 × 1 pixels"):
        read_picture(str(bad))


def test_an_order_is_made_and_kept(lent, tmp_path):
    service = Service(lambda order, stop: work.make(order, stop, lent), Gallery(tmp_path))
    view = wait(service, "ann", service.submit("ann", ORDER))
    assert view.status == "done", view.trouble
    run = service.gallery.get("ann", view.run)
    assert len(run.frames()) == 4 and run.settings == SETTINGS
    assert restore(run.video, service.gallery, "ann", Source(""), None) == Restored(SETTINGS)
    assert settings_of(run.receipt).job == JOB
    assert service.gallery.get("bob", view.run) is None and service.view("bob", view.id) is None
    service.gallery.delete("ann", view.run)
    assert not service.gallery.runs("ann")


def test_events_tell_the_whole_run(lent, tmp_path):
    events = list(work.make(ORDER, str(tmp_path / "stop"), lent))
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Loading, PartStarted] and kinds[-1] is PartDone
    assert kinds.count(Stepped) == 3 and any(event.preview for event in events if isinstance(event, Stepped))


def test_a_receipt_says_what_was_asked_of_its_plan(lent, tmp_path):
    """Of the original nothing was asked, and of a run of a sweep it is not known."""
    asked = replace(SETTINGS, quality="balanced", card=" 8GiB ")
    both = (Part("original", None), *ORDER.parts)
    for kind, parts, told in (
        ("generate", ORDER.parts, [("balanced", "8GiB")]),
        ("compare", both, [(None, None), ("balanced", "8GiB")]),
        ("sweep", both, [(None, None), (None, None)]),
    ):
        events = work.make(Order(kind, asked, parts), str(tmp_path / "stop"), lent)
        receipts = [event.receipt for event in events if isinstance(event, PartDone)]
        assert [(one.quality, one.card) for one in receipts] == told
        assert {one.source for one in receipts} == {SETTINGS.source}


def test_every_error_is_a_sentence(lent, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("First.\nSecond.")

    monkeypatch.setattr(lent.pipe.scheduler, "step", fail)
    *_, last = work.make(ORDER, str(tmp_path / "stop"), lent)
    assert last == Failed("Something went wrong: RuntimeError: First.")


def test_orders_are_made_one_at_a_time_and_in_turn(tmp_path):
    service, running, gate = _gated(tmp_path)
    first, second = service.submit("ann", ORDER), service.submit("bob", ORDER)
    running.acquire()
    assert service.view("bob", second).ahead == 1
    gate.set()
    wait(service, "ann", first), wait(service, "bob", second)
    assert service.most == 1


def test_cancelling_is_heard_at_once_and_the_next_order_is_made(tmp_path):
    service, running, gate = _gated(tmp_path)
    first, second = service.submit("ann", ORDER), service.submit("ann", ORDER)
    running.acquire()
    service.cancel("bob", first)
    assert not service.view("ann", first).is_over
    service.cancel("ann", first)
    assert service.view("ann", first).status == "cancelled"
    gate.set()
    assert wait(service, "ann", second).status == "failed"


def test_a_crowded_queue_says_so(tmp_path):
    service, running, gate = _gated(tmp_path)
    service.submit("ann", ORDER)
    running.acquire()
    for _ in range(MOST_WAITING):
        service.submit("ann", ORDER)
    with pytest.raises(streamline.InputError, match="waiting already"):
        service.submit("ann", ORDER)
    gate.set()


def test_the_gallery_keeps_to_its_cap(lent, tmp_path):
    service = Service(lambda order, stop: work.make(order, stop, lent), Gallery(tmp_path, cap_bytes=1))
    for _ in range(2):
        view = wait(service, "ann", service.submit("ann", ORDER))
    assert [run.name for run in service.gallery.runs("ann")] == [view.run]


@pytest.mark.parametrize("name", ["../x", "", "20200101-000000-abc", "a" * 999])
def test_no_name_leads_out_of_the_gallery(tmp_path, name):
    assert Gallery(tmp_path).get("ann", name) is None


def test_charts_stay_within_their_width():
    points = [(30 * 2**20, 1.0), (20 * 2**20, 1.5), (10 * 2**20, 4.0)]
    text = charts.frontier(points, 1, 25 * 2**20)
    places = [float(place) for place in re.findall(r'class="dot[^"]*" style="left:([\d.]+)%', text)]
    assert len(places) == 3 and all(0 <= place <= 100 for place in places) and text.count("here") >= 2
    text = charts.memory([(0.1, 5, 5), (2.0, 9, 12)], 11, 10**9, 4.0)
    assert "far above" in text and "predicted peak" in text


def test_words_are_short():
    assert [words.duration(seconds) for seconds in (0.04, 12.4, 60, 125, 7300)] == [
        "0.0 s", "12 s", "1 min", "2 min 5 s", "2 h 1 min",
    ]  # fmt: skip
    assert (words.size(0), words.size(2**20 * 12.34), words.size(2**33)) == ("–", "12.3 MiB", "8.0 GiB")
    assert panels.note("<b>") == "<p>&lt;b&gt;</p>"


@given(count=st.integers(2**20, 2**40))
def test_a_budget_that_is_named_is_never_less_when_it_is_typed(count):
    assert 0 <= streamline.parse_bytes(budget_text(count)) - count < 2**20


def test_a_card_larger_than_this_machine_is_planned_but_nothing_is_made_for_it(lent, monkeypatch):
    planner = Planner(lent)
    outlook = planner.full_plan(replace(SETTINGS, card="24GiB", budget_bytes=None))
    assert outlook.plan is not None and planner.order(outlook, None).parts
    room = streamline.default_budget
    monkeypatch.setattr(streamline, "default_budget", lambda device: room(device) if device.emulated else 2**20)
    with pytest.raises(streamline.InputError, match=r"planned, but not made here: it needs .*, and 1\.0 MiB are free"):
        planner.order(outlook, None)


def test_a_download_keeps_nobody_from_the_bundled_models():
    pipelines = Pipelines(offline=True)
    with pipelines._lock:  # held while another model is fetched
        loading = threading.Thread(target=pipelines.get, args=(Source("tiny-animatediff"), torch.float32), daemon=True)
        loading.start()
        loading.join(60)
        assert not loading.is_alive()


def test_estimates_are_near_the_plans(lent):
    planner = Planner(lent)
    assert planner.quick_estimate(SETTINGS) is None
    assert planner.full_plan(SETTINGS).plan is not None
    assert planner.quick_estimate(SETTINGS).plan == planner.full_plan(SETTINGS).plan
    for changes in ({"num_frames": 6}, {"width": 96}, {"num_frames": 12, "height": 128}):
        settings = replace(SETTINGS, job=replace(JOB, **changes))
        estimate = planner.quick_estimate(settings)
        assert estimate.is_estimate and estimate.plan is not None
        plan = planner.full_plan(settings)
        assert not plan.is_estimate
        assert estimate.least_bytes == pytest.approx(plan.least_bytes, rel=0.05)
        assert estimate.original.peak_bytes == pytest.approx(plan.original.peak_bytes, rel=0.05)
        assert estimate.prediction.seconds == pytest.approx(plan.prediction.seconds, rel=0.05)
        assert planner.quick_estimate(settings).prediction == plan.prediction


def test_where_nothing_like_it_is_known_an_estimate_has_no_plan_yet(lent):
    planner = Planner(lent)
    planner.full_plan(SETTINGS)
    settings = replace(SETTINGS, job=replace(JOB, guidance_scale=1.0))
    estimate, plan = planner.quick_estimate(settings), planner.full_plan(settings)
    assert estimate.is_estimate and estimate.plan is None
    assert estimate.least_bytes == pytest.approx(plan.least_bytes, rel=0.2)
    assert estimate.original.peak_bytes == pytest.approx(plan.original.peak_bytes, rel=0.2)


def test_what_a_run_teaches_changes_the_plans_at_once(lent, monkeypatch, tmp_path):
    monkeypatch.setenv("STREAMLINE_CACHE", str(tmp_path))
    planner, job = Planner(lent), replace(JOB, num_inference_steps=9)
    before = planner.full_plan(SETTINGS)
    pipe = lent.get(SETTINGS.source, torch.float32)
    for frames in (JOB.num_frames, JOB.num_frames - 2):
        planner.full_plan(replace(SETTINGS, job=replace(job, num_frames=frames)))
        streamline.run(pipe, replace(job, num_frames=frames), before.plan)
    planner.forget()
    after = planner.quick_estimate(SETTINGS)
    assert not after.is_estimate
    assert (before.prediction.tag, after.prediction.tag) == ("modelled", "calibrated")
    assert after.predictions == planner.full_plan(SETTINGS).predictions


@pytest.mark.parametrize("make", [untrained.animatediff, untrained.svd])
def test_an_estimate_decodes_as_many_frames_at_a_time_as_the_library_does(make):
    job = replace(JOB, prompt="", num_frames=4)
    forecast = streamline.forecast(make(), job)
    known = estimating.known_of(forecast)
    for frames in (2, 12, 16, 24, 40):
        other = replace(job, num_frames=frames)
        _, estimate = estimating.estimate(known, Target(other, forecast.dtype, forecast.device, forecast.rates))
        found, wanted = estimate.stage("decode"), forecast.adapted(other).original.stage("decode")
        assert found.count == wanted.count
        assert found.activation_bytes == pytest.approx(wanted.activation_bytes, rel=0.25)


@pytest.mark.slow
def test_what_the_first_estimate_of_a_model_starts_from_is_still_true():
    planner, source = Planner(Pipelines(offline=True)), Source("animatediff")
    job = planner.profile(source, entries()["animatediff"]).job
    settings = Settings("animatediff", source, job, budget_bytes=2**33, card="8GiB")
    estimate, plan = planner.quick_estimate(settings), planner.full_plan(settings)
    message = "python -m ui.seeds brings it up to date"
    assert estimate.least_bytes == pytest.approx(plan.least_bytes, rel=0.25), message
    assert estimate.original.peak_bytes == pytest.approx(plan.original.peak_bytes, rel=0.25), message
    assert estimate.prediction.seconds == pytest.approx(plan.prediction.seconds, rel=0.4), message


def test_what_a_run_says_of_itself_is_shown(tmp_path):
    said = Noted("Memory ran out in the decoder; it goes on in smaller pieces.")

    def make(order, stop):
        yield Loading()
        yield said
        yield Failed("Enough.")

    service = Service(make, Gallery(tmp_path))
    view = wait(service, "ann", service.submit("ann", ORDER))
    assert view.notes == (said.sentence,) and said.sentence in panels.progress(view)


def test_an_approximate_video_is_measured_against_the_original_where_that_is_cheap(lent, tmp_path):
    planner = Planner(lent)
    longer = replace(JOB, num_inference_steps=12)  # runs of a few steps are never cut short
    order = planner.order(planner.full_plan(replace(SETTINGS, job=longer, quality="balanced")), None)
    assert order.check is not None and planner.order(planner.full_plan(SETTINGS), None).check is None
    service = Service(lambda order, stop: work.make(order, stop, lent), Gallery(tmp_path))
    view = wait(service, "ann", service.submit("ann", order))
    assert view.status == "done", view.trouble
    run = service.gallery.get("ann", view.run)
    assert run.receipt.fidelity == view.receipts[0].fidelity == streamline.read_receipt(run.video).fidelity
    assert re.search(
        r"approximate: \d+ of 12 steps reuse others; PSNR \d+ dB measured here",
        panels.badge(run.receipt, service.fidelity(run.receipt)),
    )


def test_what_a_comparison_measured_is_known_of_the_same_video_afterwards(lent, tmp_path):
    service = Service(lambda order, stop: work.make(order, stop, lent), Gallery(tmp_path))
    made = wait(service, "ann", service.submit("ann", ORDER)).receipts[0]
    assert service.fidelity(made) is None
    parts = (Part("original", None), Part("streamlined", ORDER.parts[0].plan))
    view = wait(service, "bob", service.submit("bob", replace(ORDER, kind="compare", parts=parts)))
    assert view.status == "done", view.trouble
    assert service.fidelity(made).largest_difference <= 1
    assert "measured here" in panels.badge(made, service.fidelity(made))
    assert "within 1e-5" in panels.badge(made, None) and "Compare makes the original" in panels.badge(made, None)


def _gated(folder):
    """A service whose work waits for a gate and then fails; `most` is how many were made at once."""
    running, gate, lock = threading.Semaphore(0), threading.Event(), threading.Lock()
    count = {"now": 0}

    def make(order, stop):
        with lock:
            count["now"] += 1
            service.most = max(service.most, count["now"])
        running.release()
        gate.wait(30)
        time.sleep(0.01)
        with lock:
            count["now"] -= 1
        yield Failed("Enough.")

    service = Service(make, Gallery(folder))
    service.most = 0
    return service, running, gate
