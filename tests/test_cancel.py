"""A run that is asked to stop does so within a slice, frees what it held and leaves the pipeline ready."""

import gc
import time
import weakref

import numpy as np
import pytest
import torch
import untrained
from PIL import Image

from streamline import Cancelled, Job, Plan, Rehash, Slicing, Step, StreamlineError, run, run_naive
from streamline.families.networks import network_of

PIPELINES = {"animatediff": untrained.animatediff, "svd": untrained.svd}
PLANS = {
    "original": None,
    "whole groups": Plan(),
    "slices": Plan.uniform(4),
    "apart, group by group": Plan(Slicing(2, 3, group=1), Slicing(3, 2, group=2), guidance="sequential"),
}


@pytest.fixture(scope="module", params=PIPELINES)
def case(request):
    """A pipeline, a job for it and its image."""
    pipe = PIPELINES[request.param]()
    pipe.set_progress_bar_config(disable=True)
    given = {"num_frames": 4, "num_inference_steps": 3, "seed": 3}
    if request.param == "animatediff":
        return pipe, Job.for_model(pipe, prompt="a cat", **given), None
    return pipe, Job.for_model(pipe, **given), Image.radial_gradient("L").convert("RGB")


class Questions:
    """A should_stop that counts how often it is asked, and says yes at one of them."""

    def __init__(self, last=None):
        self.last, self.asked = last, 0

    def __call__(self):
        self.asked += 1
        return self.asked == self.last


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_wherever_a_run_is_cancelled_the_next_one_is_the_same(case, plan):
    pipe, job, image = case
    never = Questions()
    expected = pixels(run(pipe, job, plan, image, should_stop=never))
    assert never.asked > job.num_inference_steps * (1 if plan is None else 10)
    generator = np.random.default_rng(0)
    for last in {1, never.asked, *generator.integers(2, never.asked, 3).tolist()}:
        questions = Questions(last)
        with pytest.raises(Cancelled, match="cancelled"):
            run(pipe, job, plan, image, should_stop=questions)
        assert questions.asked == last, "nothing was done after the answer"
        for network in (pipe.unet, pipe.vae.decoder):
            assert "forward" not in vars(network) and not network._forward_pre_hooks
    assert (pixels(run(pipe, job, plan, image)) == expected).all()


def test_finer_slices_are_asked_more_often(case):
    pipe, job, image = case
    asked = []
    for slices in (1, 2, 4):
        questions = Questions()
        run(pipe, job, Plan.uniform(slices), image, should_stop=questions)
        asked.append(questions.asked)
    assert asked == sorted(set(asked))


def test_it_stops_within_a_step():
    pipe = untrained.animatediff()
    job = Job.for_model(pipe, prompt="a cat", num_frames=12, height=96, width=96, num_inference_steps=3)
    times = []

    def should_stop():
        times.append(time.perf_counter())
        return False

    result = run(pipe, job, Plan.uniform(8), should_stop=should_stop)
    assert len(times) > 100 * job.num_inference_steps
    assert np.median(np.diff(times)) < min(result.step_seconds) / 10


@pytest.mark.parametrize("how", ["original", "sliced", "rehash"])
def test_what_a_cancelled_run_held_is_freed_while_the_error_is_kept(case, how, monkeypatch):
    pipe, job, image = case
    cut = network_of(pipe.unet).lower(pipe.unet).cache_point("last-layer")
    plan = {"original": None, "sliced": Plan.uniform(2), "rehash": Plan(rehash=Rehash((0, 2), cut))}[how]
    alive, step, done = [], pipe.scheduler.step, []

    def watch(noise, *args, **kwargs):
        alive.append(weakref.ref(noise))
        return step(noise, *args, **kwargs)

    monkeypatch.setattr(pipe.scheduler, "step", watch)
    gc.disable()
    try:
        with pytest.raises(Cancelled) as kept:
            run(pipe, job, plan, image, lambda e: done.append(type(e) is Step), should_stop=lambda: sum(done) > 1)
        assert kept.value is not None and alive and all(tensor() is None for tensor in alive)
    finally:
        gc.enable()


def test_clips_are_cancelled_too(case):
    pipe, job, image = case
    questions = Questions(5)
    with pytest.raises(StreamlineError, match="cancelled"):
        run_naive(pipe, job, image, 2, should_stop=questions)
    assert questions.asked == 5


def pixels(result):
    return np.stack([np.asarray(frame, dtype=int) for frame in result.frames])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
