"""Clip by clip: the clips are the untouched pipeline's, chained or not as the paper does it."""

from dataclasses import replace

import pytest
import untrained
from PIL import Image, ImageChops

from streamline import InputError, Job, run, run_naive
from streamline.registry import family_named

ANIMATEDIFF_CLIP, SVD_CLIP = (family_named(name).clip_frames for name in ("animatediff", "svd"))


@pytest.fixture(scope="module")
def text_to_video():
    pipe = untrained.animatediff()
    return pipe, Job.for_model(pipe, prompt="a cat", num_frames=2 * ANIMATEDIFF_CLIP, num_inference_steps=2, seed=7)


def same(frame, other):
    return ImageChops.difference(frame, other).getbbox() is None


def test_clips_of_text_to_video_know_nothing_of_each_other(text_to_video):
    pipe, job = text_to_video
    result = run_naive(pipe, job)
    clips = [run(pipe, replace(job, num_frames=ANIMATEDIFF_CLIP, seed=seed)) for seed in (7, 8)]
    expected = [frame for clip in clips for frame in clip.frames]
    assert len(result.frames) == job.num_frames
    assert all(map(same, result.frames, expected))
    assert result.job == job and result.plan is None and len(result.step_seconds) == 4


def test_the_last_frame_of_a_clip_conditions_the_next():
    pipe = untrained.svd()
    image = Image.radial_gradient("L").convert("RGB")
    job = Job.for_model(pipe, num_frames=2 * SVD_CLIP, num_inference_steps=2, seed=7)
    result = run_naive(pipe, job, image)
    first = run(pipe, replace(job, num_frames=SVD_CLIP), image=image)
    second = run(pipe, replace(job, num_frames=SVD_CLIP, seed=8), image=first.frames[-1])
    assert all(map(same, result.frames, first.frames + second.frames))


def test_clips_need_less_memory_than_the_whole(text_to_video):
    pipe, job = text_to_video
    assert run_naive(pipe, job).peak_bytes < run(pipe, job).peak_bytes


@pytest.mark.parametrize("frames", [3, 5])
def test_the_last_clip_is_cut_to_length(text_to_video, frames):
    pipe, job = text_to_video
    assert len(run_naive(pipe, replace(job, num_frames=frames), clip_frames=2).frames) == frames
    pipe, image = untrained.svd(), Image.radial_gradient("L")
    job = Job.for_model(pipe, num_frames=frames, num_inference_steps=1)
    assert len(run_naive(pipe, job, image).frames) == frames


def test_a_clip_has_a_frame(text_to_video):
    pipe, job = text_to_video
    with pytest.raises(InputError, match="at least one frame"):
        run_naive(pipe, job, clip_frames=0)
