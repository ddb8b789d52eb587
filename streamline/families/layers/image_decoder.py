"""The image decoder of AutoencoderKL, which AnimateDiff decodes its frames with, as a program."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UpDecoderBlock2D
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...program.conditions import Conditions
from ...program.stages import CALL, Builder, Program
from ..base import Shape
from .blocks import double, project_out, require, require_open, resnet


def lower(decoder: Decoder) -> Program:
    """Latents (rows, latent channels, height, width) -> frames (rows, 3, 8 height, 8 width)."""
    p = Builder(inputs=("sample",), block="in")
    x = p.frames("in", lambda c, x: decoder.conv_in(x), "sample", of=[decoder.conv_in])

    x = middle(p, decoder.mid_block, x)

    for index, block in enumerate(decoder.up_blocks):
        require_open(block, UpDecoderBlock2D)
        p.block = f"up.{index}"
        for layer, child in enumerate(block.resnets):
            x = image_resnet(p, f"{p.block}.resnet.{layer}", child, x, call_by_name)
        x = double(p, f"{p.block}.upsample", block.upsamplers, x)

    p.block = "out"
    return p.build(project_out(p, decoder.conv_norm_out, decoder.conv_act, decoder.conv_out, x))


def middle(p: Builder, block: UNetMidBlock2D, x: str) -> str:
    """The middle block of an encoder or a decoder of pictures."""
    p.block = "mid"
    require_open(block, UNetMidBlock2D)
    x = image_resnet(p, "mid.resnet.0", block.resnets[0], x)
    for layer, attention in enumerate(block.attentions):
        if attention is not None:
            require(attention, Attention)
            x = p.frames(
                f"mid.attention.{layer}",
                lambda c, x, attention=attention: attention(x, temb=None),
                x,
                of=[attention],
                kind=CALL,
            )
        x = image_resnet(p, f"mid.resnet.{layer + 1}", block.resnets[layer + 1], x)
    return x


def image_resnet(
    p: Builder, name: str, block: ResnetBlock2D, x: str, call: Callable[..., Tensor] = nn.Module.__call__
) -> str:
    """A ResnetBlock2D without a time embedding."""
    require(block, ResnetBlock2D)
    return resnet(p, name, block, x, call)


def call_by_name(block: nn.Module, x: Tensor, emb: None) -> Tensor:
    return block(x, temb=emb)


def forward(
    decoder: Decoder,
    execute: Callable[[dict[str, Tensor], Conditions], Tensor],
    sample: Tensor,
    latent_embeds: Tensor | None = None,
) -> Tensor:
    """Decoder.forward: latents and result are (frames, channels, height, width), each frame a row by itself."""
    if latent_embeds is not None:
        raise UnsupportedError("A decoder with spatial norms (latent_embeds) is not supported.")
    conditions = Conditions(batch=1, frames=sample.shape[0], rows={"emb": None}, shared={})
    return execute({"sample": sample}, conditions)


def example(decoder: Decoder, shape: Shape) -> dict:
    """Return arguments of the right shapes for one call."""
    return {"sample": torch.zeros(shape.batch * shape.frames, decoder.conv_in.in_channels, shape.height, shape.width)}
