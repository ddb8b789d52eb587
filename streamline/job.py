"""A job says what video to make, in full; a plan says how. Both are plain data."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from diffusers import DiffusionPipeline, StableVideoDiffusionPipeline
from PIL import Image, ImageOps

from .errors import InputError, quoted
from .models.catalog import model_of

LARGEST_SEED = 2**32 - 1
ANIMATEDIFF_FRAMES = 16  # its files do not say
SVD_SIZE = (576, 1024)  # height, width that Stable Video Diffusion is trained on; its files say 768 x 768


@dataclass(frozen=True)
class Job:
    """One video: equal jobs on the same model give equal videos.

    prompt, negative_prompt: for models that start from text.
    height, width: in pixels, multiples of 8.
    guidance_scale: how closely to follow the prompt or image (SVD: at the last frame); None leaves it to
        the pipeline.
    fps: frames per second of the video; SVD is told too.
    motion_bucket_id: how much SVD moves, 0 to 255.
    noise_aug_strength: noise on SVD's image; more lets the video stray further from it.

    Raises InputError, one sentence, when a value cannot be used.
    """

    height: int
    width: int
    num_frames: int
    prompt: str = ""
    negative_prompt: str = ""
    num_inference_steps: int = 25
    guidance_scale: float | None = None
    seed: int = 0
    fps: int = 7
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"The {_words(name)} must be text.")
        for name, least, most in (
            ("height", 8, 8192),
            ("width", 8, 8192),
            ("num_frames", 1, 1024),
            ("num_inference_steps", 1, 1000),
            ("seed", 0, LARGEST_SEED),
            ("fps", 1, 120),
            ("motion_bucket_id", 0, 255),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InputError(
                    f"The {_words(name)} must be a whole number from {least} to {most}, not {quoted(value)}."
                )
        for name in ("height", "width"):
            if getattr(self, name) % 8:
                raise InputError(f"The {name} must be a multiple of 8, not {getattr(self, name)}.")
        for name in ("guidance_scale", "noise_aug_strength"):
            value = getattr(self, name)
            if value is None and name == "guidance_scale":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise InputError(f"The {_words(name)} must be a number of at least 0, not {quoted(value)}.")

    @classmethod
    def for_model(cls, pipe: DiffusionPipeline, **given: object) -> Job:
        """A job of the size, length and guidance the model is made for, except for what is given."""
        return cls.from_dict(_defaults(pipe) | given)

    @property
    def is_guided(self) -> bool:
        """Whether the denoiser is given two samples, one of them without the prompt or the image."""
        return self.guidance_scale is None or self.guidance_scale > 1

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        return asdict(self)

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping) -> Job:
        """The inverse of `to_dict`; raises InputError for anything else."""
        if not isinstance(data, Mapping):
            raise InputError("A job must be a JSON object.")
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"A job has no field {quoted(sorted(unknown, key=str)[0])}.")
        missing = {"height", "width", "num_frames"} - set(data)
        if missing:
            raise InputError(f"A job needs the {_words(sorted(missing)[0])}.")
        return cls(**data)

    @classmethod
    def from_json(cls, text: str) -> Job:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"The job is not valid JSON: {error}.") from error
        return cls.from_dict(data)


def call_arguments(pipe: DiffusionPipeline, job: Job, image: Image.Image | None) -> dict:
    """What to call a pipeline with to do a job.

    An image is cut to the job's shape around its middle and resized, never stretched.
    Raises InputError when the model cannot do the job: nothing that is given is left out in silence.
    """
    known = inspect.signature(type(pipe).__call__).parameters
    if any(name in known for name in ("video", "conditioning_frames")):
        raise InputError(
            f"{type(pipe).__name__} needs more than a prompt or an image; call it inside streamline.apply."
        )
    arguments = {
        name: getattr(job, name)
        for name in ("height", "width", "num_frames", "num_inference_steps", "fps", "motion_bucket_id")
        if name in known
    }
    if "noise_aug_strength" in known:
        arguments["noise_aug_strength"] = job.noise_aug_strength
    if job.guidance_scale is not None:
        scale = "guidance_scale" if "guidance_scale" in known else "max_guidance_scale"
        arguments[scale] = job.guidance_scale

    if "prompt" in known:
        if not job.prompt.strip():
            raise InputError("This model makes a video from text: write a prompt.")
        arguments |= {"prompt": job.prompt, "negative_prompt": job.negative_prompt or None}
    elif job.prompt or job.negative_prompt:
        raise InputError("This model makes a video from an image and reads no prompt.")
    if "image" in known:
        if image is None:
            raise InputError("This model makes a video from an image: give one.")
        arguments["image"] = fit_to(image, job)
    elif image is not None:
        raise InputError("This model makes a video from text and looks at no image.")

    for name in ("motion_bucket_id", "noise_aug_strength"):
        if name not in known and getattr(job, name) != getattr(Job, name):
            raise InputError(f"This model has no {_words(name)}; leave it out.")
    if isinstance(pipe, StableVideoDiffusionPipeline) and job.num_frames < 2 and job.is_guided:
        raise InputError("Stable Video Diffusion makes at least 2 frames.")
    longest = None if getattr(pipe, "free_noise_enabled", False) else pipe.unet.config.get("motion_max_seq_length")
    if longest is not None and job.num_frames > longest:
        raise InputError(f"This model makes at most {longest} frames, not {job.num_frames}.")
    return arguments


def _defaults(pipe: DiffusionPipeline) -> dict:
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    longest = pipe.unet.config.get("motion_max_seq_length") or ANIMATEDIFF_FRAMES
    defaults = {"height": side, "width": side, "num_frames": min(ANIMATEDIFF_FRAMES, longest), "fps": 8}
    if isinstance(pipe, StableVideoDiffusionPipeline):
        height, width = SVD_SIZE if side == 768 else (side, side)
        frames = pipe.unet.config.num_frames
        defaults = {"height": height, "width": width, "num_frames": frames, "fps": 7}
    model = model_of(pipe)
    if model is not None and model.num_frames is not None:
        defaults["num_frames"] = model.num_frames
    if model is not None:
        defaults["guidance_scale"] = model.guidance_scale
    return defaults


def fit_to(image: Image.Image, job: Job) -> Image.Image:
    """A picture as the model sees it: upright, RGB, on white, cut to the job's shape around its middle and resized."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return ImageOps.fit(upright.convert("RGB"), (job.width, job.height), Image.Resampling.LANCZOS)


def _words(name: str) -> str:
    """A field's name as people say it."""
    return {
        "num_frames": "number of frames",
        "num_inference_steps": "number of steps",
        "fps": "frame rate",
        "motion_bucket_id": "motion bucket",
        "noise_aug_strength": "noise strength",
    }.get(name, name.replace("_", " "))
