"""Stable Video Diffusion's decoder, the TemporalDecoder of AutoencoderKLTemporalDecoder, as a program.

The pipelines' `decode_chunk_size` cuts the frames into chunks that no longer see each other, which changes the
video. A program slices the same decode without changing it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.unets.unet_3d_blocks import MidBlockTemporalDecoder, UpBlockTemporalDecoder
from torch import Tensor

from ...program.conditions import Conditions
from ...program.stages import CALL, Builder, Program
from ..base import Shape
from ..layers.blocks import double, project_out, require, require_open, to_rows, to_video
from .layers import spatio_temporal_resnet


def lower(decoder: TemporalDecoder) -> Program:
    """Latents (rows, latent channels, height, width) -> frames (rows, 3, 8 height, 8 width)."""
    p = Builder(inputs=("sample",), block="in")
    x = p.frames("in", lambda c, x: decoder.conv_in(x), "sample", of=[decoder.conv_in])

    p.block = "mid"
    require_open(decoder.mid_block, MidBlockTemporalDecoder)
    x = spatio_temporal_resnet(p, "mid.resnet.0", decoder.mid_block.resnets[0], x)
    # diffusers pairs resnets and attentions up to the shorter list, and so do we.
    for layer, (resnet, attention) in enumerate(
        zip(decoder.mid_block.resnets[1:], decoder.mid_block.attentions, strict=False)
    ):
        require(attention, Attention)
        x = p.frames(
            f"mid.attention.{layer}", lambda c, x, attention=attention: attention(x), x, of=[attention], kind=CALL
        )
        x = spatio_temporal_resnet(p, f"mid.resnet.{layer + 1}", resnet, x)

    up_dtype = next(decoder.up_blocks.parameters()).dtype
    if up_dtype != next(decoder.mid_block.parameters()).dtype:
        x = p.frames("mid.cast", lambda c, x: x.to(up_dtype), x)
    for index, block in enumerate(decoder.up_blocks):
        require_open(block, UpBlockTemporalDecoder)
        p.block = f"up.{index}"
        for layer, resnet in enumerate(block.resnets):
            x = spatio_temporal_resnet(p, f"{p.block}.resnet.{layer}", resnet, x)
        x = double(p, f"{p.block}.upsample", block.upsamplers, x)

    p.block = "out"
    x = project_out(p, decoder.conv_norm_out, decoder.conv_act, decoder.conv_out, x)
    last = decoder.time_conv_out
    return p.build(p.pixels("out.time", lambda c, x: to_rows(last(to_video(x, c.batch))), x, of=[last]))


def forward(
    decoder: TemporalDecoder,
    execute: Callable[[dict[str, Tensor], Conditions], Tensor],
    sample: Tensor,
    image_only_indicator: Tensor,
    num_frames: int = 1,
) -> Tensor:
    """TemporalDecoder.forward: latents and result are (batch x num_frames, channels, height, width)."""
    conditions = Conditions(
        batch=sample.shape[0] // num_frames,
        frames=num_frames,
        rows={"image_only_indicator": image_only_indicator.flatten(), "emb": None},
        shared={},
    )
    return execute({"sample": sample}, conditions)


def example(decoder: TemporalDecoder, shape: Shape) -> dict:
    """Return arguments of the right shapes for one call."""
    return {
        "sample": torch.zeros(shape.batch * shape.frames, decoder.conv_in.in_channels, shape.height, shape.width),
        "image_only_indicator": torch.zeros(shape.batch, shape.frames),
        "num_frames": shape.frames,
    }
