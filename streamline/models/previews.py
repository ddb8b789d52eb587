"""Quick pictures of latents while a video is still being denoised."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from ..registry import family_of

SMALLEST_SIDE = 256  # pixels; smaller pictures are enlarged


@torch.no_grad()
def preview(pipe: DiffusionPipeline, latents: Tensor) -> tuple[Image.Image, ...]:
    """Return a small RGB picture of every frame, by what takes a few milliseconds, from anywhere while a pipeline runs.

    latents: of one video as the pipeline has them; a Step has some. More samples than one are left out.
    Raises InputError for latents of another shape, UnsupportedError for an autoencoder of another kind.
    """
    family = family_of(pipe)
    colours = family.colours(pipe, family.latent_frames(pipe, latents))
    pixels = ((colours.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return tuple(_enlarge(Image.fromarray(frame)) for frame in pixels)


def _enlarge(picture: Image.Image) -> Image.Image:
    factor = max(1, -(-SMALLEST_SIDE // min(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
