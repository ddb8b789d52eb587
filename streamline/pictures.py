"""A picture that a video starts from, as the model sees it."""

from __future__ import annotations

from PIL import Image, ImageOps

from .job import Job


def fit_to(image: Image.Image, job: Job) -> Image.Image:
    """Return a picture upright, RGB, on white, cut to the job's shape around its middle and resized."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return ImageOps.fit(upright.convert("RGB"), (job.width, job.height), Image.Resampling.LANCZOS)
