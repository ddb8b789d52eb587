"""Naive slicing: a video made clip by clip. It saves memory and loses motion; it is here to be compared with.

The paper's baseline (section 4.1): Stable Video Diffusion in clips of 2 frames, the last frame of one clip
conditioning the next; AnimateDiff in clips of 4 frames that know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from diffusers import DiffusionPipeline
from PIL import Image

from ..errors import InputError
from ..fields import LARGEST_SEED
from ..job import Job
from ..registry import family_of
from .events import Event, Result
from .run import run


def run_naive(
    pipe: DiffusionPipeline,
    job: Job,
    image: Image.Image | None = None,
    clip_frames: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    count_tensors: bool = True,
) -> Result:
    """Make the video of a job in clips by the untouched pipeline, and join them.

    clip_frames: of every clip, the last one cut to length; None takes the paper's choice for the model.
    Every clip has a seed of its own, counted up from the job's: with one seed all AnimateDiff clips would be
    the same. Seconds add up over clips and the peak is the highest; events are those of every clip in turn.
    Raises InputError as `run` does, and for clips of less than one frame.
    """
    family = family_of(pipe)
    clip_frames = family.clip_frames if clip_frames is None else clip_frames
    if clip_frames < 1:
        raise InputError(f"A clip needs at least one frame, not {clip_frames}.")

    clips: list[Result] = []
    for index in range(-(-job.num_frames // clip_frames)):
        clip = replace(job, num_frames=clip_frames, seed=(job.seed + index) % (LARGEST_SEED + 1))
        clips.append(run(pipe, clip, None, image, on_event, should_stop=should_stop, count_tensors=count_tensors))
        if family.is_chained:
            image = clips[-1].frames[-1]
    return replace(
        clips[0],
        frames=tuple(frame for clip in clips for frame in clip.frames)[: job.num_frames],
        job=job,
        seconds=sum(clip.seconds for clip in clips),
        step_seconds=tuple(seconds for clip in clips for seconds in clip.step_seconds),
        decode_seconds=sum(clip.decode_seconds for clip in clips),
        peak_bytes=max(clip.peak_bytes for clip in clips),
    )
