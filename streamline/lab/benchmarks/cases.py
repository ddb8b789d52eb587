"""What to make: the same jobs for every method, of scenes that nothing was trained on."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import DiffusionPipeline
from PIL import Image

from ...job import Job
from ..recipes import world
from ..recipes.sampling import GUIDANCE, Question, is_from_image, questions, to_image

STEPS = 25
FPS = 8  # of clips made from text
SEEDS_APART = 100_000  # between the seeds of one scene, which has its own number for the first


@dataclass(frozen=True)
class Case:
    """One video to make.

    scene: its number, in the world; cases of one scene differ in their seed.
    question: the scene asked for and the clip it should be like; None for a job that the judge knows nothing of.
    """

    scene: int
    job: Job
    image: Image.Image | None
    question: Question | None

    @property
    def key(self) -> str:
        """Text that is the same for the same case: its seed tells the image too."""
        return self.job.to_json(None)


def world_cases(
    pipe: DiffusionPipeline, clips: int, seeds: int = 1, steps: int = STEPS, size: tuple[int, int] | None = None
) -> tuple[Case, ...]:
    """Return cases for a model of the procedural world: so many clips, of which each scene has as many as there are
    seeds.

    size: height and width in pixels, by default the world's own. Clips of another size are not judged.
    """
    asked = questions(pipe, -(-clips // seeds))
    height, width = size or (world.SIZE, world.SIZE)
    shape = {"height": height, "width": width, "num_frames": world.FRAMES, "num_inference_steps": steps}
    cases = []
    for number in range(clips):
        question = asked[number // seeds]
        seed = question.seed + SEEDS_APART * (number % seeds)
        job, image = _ask(pipe, question, shape | {"guidance_scale": GUIDANCE[type(pipe)], "seed": seed})
        is_known = (height, width) == (world.SIZE, world.SIZE)
        cases.append(Case(question.seed, job, image, question if is_known else None))
    return tuple(cases)


def plain_cases(pipe: DiffusionPipeline, clips: int, steps: int, size: tuple[int, int]) -> tuple[Case, ...]:
    """Return cases for a model of any world, which nobody judges: so many seeds of one job.
    size: height and width, pixels."""
    height, width = size
    shape = {"height": height, "width": width, "num_frames": world.FRAMES, "num_inference_steps": steps}
    image = Image.radial_gradient("L").convert("RGB") if is_from_image(pipe) else None
    asked = {} if is_from_image(pipe) else {"prompt": "a red circle"}
    jobs = (Job.for_model(pipe, seed=seed, **shape, **asked) for seed in range(clips))
    return tuple(Case(job.seed, job, image, None) for job in jobs)


def _ask(pipe: DiffusionPipeline, question: Question, common: dict) -> tuple[Job, Image.Image | None]:
    scene = question.scene
    if is_from_image(pipe):
        job = Job(**common, fps=scene.fps, motion_bucket_id=world.motion_bucket(scene))
        return job, to_image(question.clip[0])
    return Job(**common, prompt=world.describe(scene), fps=FPS), None
