"""What to make: the same jobs for every method, of scenes that nothing was trained on."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import DiffusionPipeline
from PIL import Image

from ..job import Job
from ..recipes import world
from ..recipes.sampling import GUIDANCE, Question, is_from_image, questions, to_image

STEPS = 25


@dataclass(frozen=True)
class Case:
    """One video to make.

    number: which of all cases it is; the same number is the same video for every method and at every time.
    question: the scene asked for and the clip it should be like; None for a job that the judge knows nothing of.
    """

    number: int
    job: Job
    image: Image.Image | None
    question: Question | None


def world_cases(pipe: DiffusionPipeline, clips: int, seeds: int = 1, steps: int = STEPS) -> tuple[Case, ...]:
    """Cases for a model of the procedural world: so many clips, of which each scene has as many as there are seeds."""
    asked = questions(pipe, -(-clips // seeds))
    return tuple(_case(pipe, number, asked[number // seeds], number % seeds, steps) for number in range(clips))


def _case(pipe: DiffusionPipeline, number: int, question: Question, repeat: int, steps: int) -> Case:
    scene = question.scene
    size = {"height": world.SIZE, "width": world.SIZE, "num_frames": world.FRAMES, "num_inference_steps": steps}
    common = size | {"guidance_scale": GUIDANCE[type(pipe)], "seed": question.seed + 100_000 * repeat}
    if is_from_image(pipe):
        job = Job(**common, fps=scene.fps, motion_bucket_id=world.motion_bucket(scene))
        return Case(number, job, to_image(question.clip[0]), question)
    return Case(number, Job(**common, prompt=world.describe(scene), fps=8), None, question)
