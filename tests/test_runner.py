"""A run is what the pipeline does, seeded, measured and reported; jobs are checked plain data."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
import untrained
from PIL import Image

from streamline import (
    Decoding,
    Finished,
    InputError,
    Job,
    OutOfMemory,
    Plan,
    Started,
    Step,
    UnsupportedError,
    apply,
    run,
)
from streamline.families.networks import call_arguments

STEPS = 5


@pytest.fixture(scope="module", params=["animatediff", "svd"])
def case(request):
    """A pipeline, a job for it and its image."""
    pipe = getattr(untrained, request.param)()
    pipe.set_progress_bar_config(disable=True)
    given = {"num_frames": 4, "num_inference_steps": STEPS, "seed": 3}
    if request.param == "animatediff":
        return pipe, Job.for_model(pipe, prompt="a cat", **given), None
    return pipe, Job.for_model(pipe, **given), Image.radial_gradient("L").convert("RGB")


def pixels(result):
    return np.stack([np.asarray(frame, dtype=int) for frame in result.frames])


def test_no_plan_is_the_untouched_pipeline(case):
    pipe, job, image = case
    result = run(pipe, job, image=image)
    if image is None:
        inputs = {"prompt": job.prompt}
    else:
        inputs = {"image": image.resize((job.width, job.height), Image.Resampling.LANCZOS), "fps": job.fps}
    expected = pipe(
        **inputs,
        height=job.height,
        width=job.width,
        num_frames=job.num_frames,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(job.seed),
    )
    assert (pixels(result) == np.stack([np.asarray(frame) for frame in expected.frames[0]])).all()
    assert pixels(result).shape == (job.num_frames, job.height, job.width, 3)


def test_a_plan_gives_the_same_video_in_less_memory(case):
    pipe, job, image = case
    original = run(pipe, job, image=image)
    streamlined = run(pipe, job, Plan.uniform(4), image)
    assert abs(pixels(original) - pixels(streamlined)).max() <= 1
    assert streamlined.peak_bytes < original.peak_bytes
    assert streamlined.weights_bytes == original.weights_bytes < streamlined.peak_bytes
    again = run(pipe, job, image=image)
    assert (pixels(again) == pixels(original)).all()
    assert again.peak_bytes == original.peak_bytes


def test_the_seed_decides(case):
    pipe, job, image = case
    other = dataclasses.replace(job, seed=job.seed + 1)
    assert (pixels(run(pipe, job, image=image)) != pixels(run(pipe, other, image=image))).any()


def test_events_tell_the_run_in_order(case):
    pipe, job, image = case
    events = []
    result = run(pipe, job, Plan.uniform(2), image, events.append)
    assert [type(event) for event in events] == [Started, *[Step] * STEPS, Decoding, Finished]
    steps = events[1 : 1 + STEPS]
    assert [step.index for step in steps] == list(range(STEPS))
    assert {step.total for step in steps} == {STEPS}
    assert tuple(step.seconds for step in steps) == result.step_seconds
    assert all(result.weights_bytes < step.live_bytes <= step.peak_bytes for step in steps)
    peaks = [step.peak_bytes for step in steps]
    assert peaks == sorted(peaks) and events[-1].peak_bytes == result.peak_bytes >= peaks[-1]
    assert 0 < sum(result.step_seconds) + result.decode_seconds <= result.seconds
    assert result.to_dict()["seed"] == job.seed


def test_freeinit_denoises_several_times_and_decodes_once():
    pipe = untrained.animatediff()
    pipe.enable_free_init(num_iters=2)
    events = []
    run(pipe, Job.for_model(pipe, prompt="a cat", num_frames=2, num_inference_steps=2), None, None, events.append)
    assert [type(event) for event in events] == [Started, *[Step] * 4, Decoding, Finished]


def test_an_exception_of_the_listener_ends_the_run_and_restores_the_pipeline(case):
    pipe, job, image = case
    before = pixels(run(pipe, job, image=image))

    def stop(event):
        if isinstance(event, Step) and event.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipe, job, Plan.uniform(2), image, stop)
    assert "forward" not in vars(pipe.unet) and not pipe.unet._forward_pre_hooks
    assert (pixels(run(pipe, job, image=image)) == before).all()


@pytest.mark.parametrize("make", [torch.OutOfMemoryError, MemoryError, lambda: torch.empty(10**15)])
def test_too_little_memory_is_an_error_of_its_own_and_frees_what_there_was(case, monkeypatch, make):
    pipe, job, image = case
    alive = []

    def fail(noise, *args, **kwargs):
        alive.append(weakref.ref(noise))
        raise make()

    monkeypatch.setattr(pipe.scheduler, "step", fail)
    gc.disable()
    try:
        with pytest.raises(OutOfMemory, match=r"^Memory ran out before the first step, with nothing left"):
            run(pipe, job, Plan.uniform(2), image)
        assert alive[0]() is None
    finally:
        gc.enable()


def test_what_a_model_cannot_do_is_refused():
    animatediff, svd = untrained.animatediff(), untrained.svd()
    image = Image.new("RGB", (8, 8))
    for pipe, job, picture, sentence in (
        (animatediff, Job(32, 32, 4), None, "write a prompt"),
        (animatediff, Job(32, 32, 4, prompt="a cat"), image, "looks at no image"),
        (animatediff, Job(32, 32, 13, prompt="a cat"), None, "at most 12 frames"),
        (svd, Job(32, 32, 4), None, "give one"),
        (animatediff, Job(32, 32, 4, prompt="a cat", motion_bucket_id=3), None, "no motion bucket"),
        (svd, Job(32, 32, 4, prompt="a cat"), image, "reads no prompt"),
        (svd, Job(32, 32, 1), image, "at least 2 frames"),
    ):
        with pytest.raises(InputError, match=sentence):
            run(pipe, job, image=picture)


def test_a_plan_that_cannot_be_run_is_refused():
    pipe = untrained.svd()
    pipe.unet.compile()
    with pytest.raises(UnsupportedError):
        run(pipe, Job.for_model(pipe), Plan.uniform(2), Image.new("RGB", (8, 8)))


def test_a_streamlined_pipeline_is_not_taken_for_an_untouched_one():
    pipe = untrained.animatediff()
    with apply(pipe, Plan.uniform(2)), pytest.raises(UnsupportedError, match="streamlined already"):
        run(pipe, Job.for_model(pipe, prompt="a cat"))


def test_images_are_cut_to_shape_and_never_stretched():
    pipe = untrained.svd()
    wide = Image.new("RGB", (300, 100), "blue")
    wide.paste("red", (100, 0, 200, 100))
    cut = call_arguments(pipe, Job(32, 32, 4), wide)["image"]
    assert cut.size == (32, 32)
    assert (np.asarray(cut)[:, 4:-4] == (255, 0, 0)).all(), "the blue sides are cut off"
    clear = call_arguments(pipe, Job(32, 32, 4), Image.new("RGBA", (64, 64), (0, 0, 0, 0)))["image"]
    assert (np.asarray(clear) == 255).all()


def test_jobs_survive_json():
    job = Job(576, 1024, 14, prompt="ein Bär", guidance_scale=2.5, seed=2**32 - 1)
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"height": 57}, "height must be a multiple of 8"),
        ({"width": 0}, "width must be a whole number from 8"),
        ({"num_frames": 0}, "number of frames"),
        ({"num_frames": 2.5}, "number of frames"),
        ({"num_inference_steps": 0}, "number of steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": True}, "seed"),
        ({"fps": 0}, "frame rate"),
        ({"motion_bucket_id": 256}, "motion bucket"),
        ({"guidance_scale": -1}, "guidance scale"),
        ({"guidance_scale": float("nan")}, "guidance scale"),
        ({"noise_aug_strength": None}, "noise strength"),
        ({"prompt": None}, "prompt must be text"),
        ({"colour": 1}, "no field 'colour'"),
    ],
)
def test_values_that_make_no_job_are_refused_by_name(change, sentence):
    good = {"height": 64, "width": 64, "num_frames": 8}
    assert Job.from_dict(good)
    with pytest.raises(InputError, match=sentence):
        Job.from_dict(good | change)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"height": 64'])
def test_json_that_is_no_job_is_refused(text):
    with pytest.raises(InputError):
        Job.from_json(text)
