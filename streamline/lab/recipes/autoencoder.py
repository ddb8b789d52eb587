"""Training an image or video autoencoder on the world's pictures."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamline.lab.recipes import world

KL_WEIGHT = 3e-4
EDGE_WEIGHT = 1.0


def pictures(rng: np.random.Generator, clips: int, frames: int, size: int = world.SIZE) -> Tensor:
    """Draw `frames` neighbouring frames of each of `clips` random scenes, cut to a square of side `size`.

    Smaller squares lie about the shape: what there is to learn is there. Returns float32 in [-1, 1],
    (clips * frames, 3, size, size).
    """
    drawn = []
    for _ in range(clips):
        times = (rng.integers(world.FRAMES - frames + 1) + np.arange(frames)) / (world.FRAMES - 1)
        number = int(rng.integers(2**31))
        scene = world.scene(number) if number % 2 else world.image_scene(number)
        (cx, cy), _, _ = world.pose(scene, float(times[0]))
        corner = np.array([cy, cx]) * world.SIZE - size / 2 + rng.uniform(-size / 4, size / 4, 2)
        y, x = np.clip(corner.round().astype(int), 0, world.SIZE - size)
        drawn.append(world.draw(scene, times)[:, y : y + size, x : x + size])
    return to_tensor(np.concatenate(drawn))


def to_tensor(video: np.ndarray) -> Tensor:
    """Turn pictures (n, h, w, 3) in [0, 1] into a tensor (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(video).permute(0, 3, 1, 2).contiguous() * 2 - 1


def loss(vae: nn.Module, images: Tensor, generator: torch.Generator, decode: Callable[[Tensor], Tensor]) -> Tensor:
    """Return reconstruction, edge and KL loss of images (n, 3, h, w) in [-1, 1]."""
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images)
    rebuilt = decode(posterior.mean + posterior.std * noise)
    return (
        reconstruction_loss(rebuilt.float(), images)
        + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()
    )


def reconstruction_loss(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Return the L1 loss of pixels plus that of their gradients, which keeps small shapes sharp."""
    error = rebuilt - images
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    return error.abs().mean() + error.square().mean() + EDGE_WEIGHT * edges


def colour_loss(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Return the L1 loss of the mean colours of 4x4 pixels, weighted by saturation: shapes are told by their hue."""
    colours = F.avg_pool2d(images, 4)
    saturation = colours.amax(dim=1, keepdim=True) - colours.amin(dim=1, keepdim=True)
    return ((F.avg_pool2d(rebuilt, 4) - colours).abs() * (1 + 2 * saturation)).mean()


def anchor_norm(convolution: nn.Conv2d, groups: int, level: float = 0.5) -> None:
    """Give a group norm that follows `convolution` a constant to measure against.

    A group norm with few channels a group divides a picture's overall level away. Two channels of each
    group that start at plus and minus `level` make up most of its variance, so that the others keep theirs.
    """
    size = convolution.out_channels // groups
    with torch.no_grad():
        convolution.bias[1::size] = level
        convolution.bias[2::size] = -level


def open_path(vae: nn.Module) -> None:
    """Let a picture's overall level pass an untrained autoencoder undiminished.

    What goes round the residual blocks is the only way for it where norms have few channels a group, and
    convolutions halve what passes as they are usually initialised.
    """
    for name, module in vae.named_modules():
        if name.endswith(("conv_in", "conv_shortcut")):
            nn.init.orthogonal_(module.weight, gain=1.5)
        elif name.endswith(("downsamplers.0.conv", "upsamplers.0.conv")):
            with torch.no_grad():
                module.weight.mul_(0.5).add_(nn.init.dirac_(torch.empty_like(module.weight)))


def psnr(rebuilt: Tensor, images: Tensor) -> float:
    """Return the mean peak signal-to-noise ratio over pictures (n, 3, h, w) in [-1, 1], in decibels."""
    error = (rebuilt.clamp(-1, 1) - images).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error.clamp_min(1e-12))).mean())


def latent_scale(latents: Tensor) -> float:
    """Return the factor that gives latents unit standard deviation, rounded as it goes to a config file."""
    return round(1 / math.sqrt(float(latents.float().square().mean())), 4)
