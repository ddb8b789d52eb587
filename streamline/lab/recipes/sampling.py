"""Asking a trained model for the clip of a scene, and laying clips out to be looked at."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, DiffusionPipeline, StableVideoDiffusionPipeline
from PIL import Image

from streamline.lab.recipes import world
from streamline.output.video import comparison_sheet, save_picture

HELD_OUT = 10_000_000
"""First scene used for measuring; training uses small numbers, and random ones by pixel only."""
GUIDANCE = {AnimateDiffPipeline: 3.0, StableVideoDiffusionPipeline: 2.0}
SLOW, FAST = (0, 20), (200, 255)
"""Motion buckets at which an image-to-video model is asked to stand still, and to move."""


@dataclass(frozen=True)
class Question:
    """A scene that a model is asked for, by its prompt or its first frame, and the clip it should be like."""

    scene: world.Scene
    clip: np.ndarray
    seed: int


def is_from_image(pipeline: DiffusionPipeline) -> bool:
    """Return whether a pipeline makes videos from images, and not from text."""
    return isinstance(pipeline, StableVideoDiffusionPipeline)


def questions(pipeline: DiffusionPipeline, count: int) -> list[Question]:
    """Return questions that nothing was trained on; images are asked for at slow and at fast buckets in turn."""
    asked = []
    for seed in range(count):
        scene = world.scene(HELD_OUT + seed)
        if is_from_image(pipeline):
            scene = world.image_scene(HELD_OUT + seed)
            low, high = FAST if seed % 2 else SLOW
            bucket = int(np.random.default_rng([seed, 0xB0C]).integers(low, high + 1))
            scene = replace(scene, pace=bucket / world.FASTEST_MOTION_BUCKET, fps=world.USUAL_FPS)
        asked.append(Question(scene, world.draw(scene), seed))
    return asked


def sample(
    pipeline: DiffusionPipeline,
    question: Question,
    steps: int = 25,
    guidance: float | None = None,
    output_type: str = "np",
) -> np.ndarray | torch.Tensor:
    """Sample a video (frames, size, size, 3) in [0, 1], or latents if `output_type` says so."""
    options = {
        "height": world.SIZE,
        "width": world.SIZE,
        "num_frames": world.FRAMES,
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(question.seed),
        "output_type": output_type,
    }
    scene = question.scene
    scale = GUIDANCE[type(pipeline)] if guidance is None else guidance
    if is_from_image(pipeline):
        options |= {"motion_bucket_id": world.motion_bucket(scene), "fps": scene.fps, "max_guidance_scale": scale}
        return pipeline(to_image(question.clip[0]), **options).frames[0]
    return pipeline(world.describe(scene), guidance_scale=scale, **options).frames[0]


def to_image(frame: np.ndarray) -> Image.Image:
    """Turn a frame (h, w, 3) in [0, 1] into a picture."""
    return Image.fromarray(np.round(frame * 255).astype(np.uint8))


def caption(pipeline: DiffusionPipeline, scene: world.Scene) -> str:
    """Return what a model was asked for, in words."""
    if is_from_image(pipeline):
        return f"first frame of {world.describe(scene)}; motion bucket {world.motion_bucket(scene)}"
    return world.describe(scene)


def save_sheet(captions: list[str], videos: list[np.ndarray], path: Path) -> None:
    """Save videos as one picture, each a row of frames under its caption."""
    rows = {text: [to_image(frame) for frame in video] for text, video in zip(captions, videos, strict=True)}
    save_picture(comparison_sheet(rows), path)
