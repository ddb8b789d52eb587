"""The image encoder of diffusers' autoencoders, which SVD encodes its picture with, as a program."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.autoencoders.vae import Encoder
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D
from torch import Tensor

from ...program.conditions import Conditions
from ...program.stages import Builder, Program
from ..base import Shape
from .blocks import downsample, project_out, require_open
from .image_decoder import call_by_name, image_resnet, middle


def lower(encoder: Encoder) -> Program:
    """Pictures (rows, 3, 8 height, 8 width) -> moments of latents (rows, 2 x latent channels, height, width)."""
    p = Builder(inputs=("sample",), block="in")
    x = p.frames("in", lambda c, x: encoder.conv_in(x), "sample", of=[encoder.conv_in])

    for index, block in enumerate(encoder.down_blocks):
        require_open(block, DownEncoderBlock2D)
        p.block = f"down.{index}"
        for layer, child in enumerate(block.resnets):
            x = image_resnet(p, f"{p.block}.resnet.{layer}", child, x, call_by_name)
        x = downsample(p, f"{p.block}.downsample", block.downsamplers, x)

    x = middle(p, encoder.mid_block, x)

    p.block = "out"
    return p.build(project_out(p, encoder.conv_norm_out, encoder.conv_act, encoder.conv_out, x))


def forward(encoder: Encoder, execute: Callable[[dict[str, Tensor], Conditions], Tensor], sample: Tensor) -> Tensor:
    """Encoder.forward: each picture is a row by itself."""
    return execute({"sample": sample}, Conditions(1, sample.shape[0], rows={"emb": None}, shared={}))


def example(encoder: Encoder, shape: Shape) -> dict:
    """Return arguments of the right shapes for one call."""
    scale = 2 ** (len(encoder.down_blocks) - 1)
    return {
        "sample": torch.zeros(
            shape.batch * shape.frames, encoder.conv_in.in_channels, scale * shape.height, scale * shape.width
        )
    }
