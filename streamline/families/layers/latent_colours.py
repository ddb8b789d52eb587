"""Colours of Stable Diffusion's latents, while a video is still being denoised.

An autoencoder's latents are close to a picture already: a colour is nearly a linear function of the channels at one
place. The factors of Stable Diffusion's autoencoders are published; for another one they are fitted, once, to a few
pictures that it encodes. A decoder so small that it costs next to nothing (the bundled models', whose latents are less
like a picture) is called itself, one frame at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional

from ...errors import InputError, UnsupportedError

TINY = 1_000_000  # parameters of a decoder; those of Stable Diffusion have 50 million
FIT_PICTURES = 16
FIT_SIDE = 64  # pixels
WIDTHS = (128, 256, 512, 512)  # of the autoencoders that the published factors are for


@dataclass(frozen=True)
class Linear:
    """Colours of scaled latents: red, green and blue from -1 to 1 for each channel, and the colour of zero."""

    factors: tuple[tuple[float, float, float], ...]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __call__(self, latents: Tensor) -> Tensor:
        """(frames, channels, height, width) -> (frames, 3, height, width)."""
        factors, offset = latents.new_tensor(self.factors), latents.new_tensor(self.offset)
        return torch.einsum("fchw,cr->frhw", latents, factors) + offset[:, None, None]


# As ComfyUI has them (comfy/latent_formats.py), by an autoencoder's scaling factor. Stable Video Diffusion keeps
# the encoder of Stable Diffusion, and so its latents.
PUBLISHED = {
    0.18215: Linear(
        ((0.3512, 0.2297, 0.3227), (0.3250, 0.4974, 0.2350), (-0.2829, 0.1762, 0.2721), (-0.2120, -0.2616, -0.7177))
    ),
    0.13025: Linear(
        ((0.3651, 0.4232, 0.4341), (-0.2533, -0.0042, 0.1068), (0.1076, 0.1111, -0.0362), (-0.3165, -0.2492, -0.2188)),
        (0.1084, -0.0175, -0.0011),
    ),
}

_fitted: weakref.WeakKeyDictionary[nn.Module, Linear] = weakref.WeakKeyDictionary()


def frames_of(pipe: DiffusionPipeline, latents: Tensor, channel_axis: int) -> Tensor:
    """Return the first sample of latents as (frames, channels, height, width).

    channel_axis: 1 for (samples, channels, frames, ...), 2 for (samples, frames, channels, ...).
    Raises InputError for latents of another shape, UnsupportedError for an autoencoder of another kind.
    """
    if not isinstance(pipe.vae, (AutoencoderKL, AutoencoderKLTemporalDecoder)):
        raise UnsupportedError(f"There are no previews for the latents of {type(pipe.vae).__name__}.")
    if latents.ndim != 5 or latents.shape[channel_axis] != pipe.vae.config.latent_channels:
        raise InputError(f"These are no latents of {type(pipe).__name__}: they are of shape {tuple(latents.shape)}.")
    return latents[0] if channel_axis == 2 else latents[0].transpose(0, 1)


def colours(vae: nn.Module, frames: Tensor, decode: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
    """Return red, green and blue from -1 to 1, (frames, 3, height, width), of scaled latents.

    decode: decode(vae, unscaled latents) -> frames, for decoders that cost next to nothing.
    """
    if sum(parameter.numel() for parameter in vae.decoder.parameters()) > TINY:
        return _linear(vae)(frames.float())
    weight = next(vae.decoder.parameters())
    return decode(vae, (frames / vae.config.scaling_factor).to(weight.device, weight.dtype))


def _linear(vae: nn.Module) -> Linear:
    published = PUBLISHED.get(vae.config.scaling_factor)
    if published is not None and vae.config.latent_channels == 4 and tuple(vae.config.block_out_channels) == WIDTHS:
        return published
    if vae not in _fitted:
        _fitted[vae] = fit(vae)
    return _fitted[vae]


def fit(vae: nn.Module) -> Linear:
    """The factors nearest, by least squares, to what an autoencoder makes of pictures with gradients and edges."""
    pictures = _pictures()
    latents = []
    for picture in pictures:
        hook = vars(vae).get("_hf_hook")  # it brings the weights, not what they are given
        place = getattr(hook, "execution_device", None) or vae.device
        distribution = vae.encode(picture[None].to(place, vae.dtype)).latent_dist
        latents.append(distribution.mean.float().cpu() * vae.config.scaling_factor)
    latents = torch.cat(latents)
    colours = functional.adaptive_avg_pool2d(pictures, latents.shape[-2:])
    rows = latents.movedim(1, -1).flatten(0, 2)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    *factors, offset = torch.linalg.lstsq(rows, colours.movedim(1, -1).flatten(0, 2)).solution.tolist()
    return Linear(tuple(map(tuple, factors)), tuple(offset))


def _pictures() -> Tensor:
    """(FIT_PICTURES, 3, FIT_SIDE, FIT_SIDE) from -1 to 1, the same every time."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(FIT_PICTURES, 3, 2, 2, generator=generator)
    pictures = functional.interpolate(corners, (FIT_SIDE, FIT_SIDE), mode="bilinear", align_corners=True)
    for picture in pictures:
        for _ in range(4):
            top, left = torch.randint(FIT_SIDE - 8, (2,), generator=generator).tolist()
            height, width = torch.randint(8, FIT_SIDE // 2, (2,), generator=generator).tolist()
            picture[:, top : top + height, left : left + width] = torch.rand(3, 1, 1, generator=generator)
    return pictures * 2 - 1
