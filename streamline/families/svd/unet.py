"""Stable Video Diffusion's UNet, UNetSpatioTemporalConditionModel, as a program."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.unet_3d_blocks import (
    CrossAttnDownBlockSpatioTemporal,
    CrossAttnUpBlockSpatioTemporal,
    DownBlockSpatioTemporal,
    UNetMidBlockSpatioTemporal,
    UpBlockSpatioTemporal,
)
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionOutput
from torch import Tensor, nn

from ...program.conditions import Conditions
from ...program.parts import parts_of
from ...program.stages import Builder, Program
from ..base import Shape
from ..layers.arguments import as_timesteps, needs_resize
from ..layers.blocks import downsample, project_out, require_open, upsample
from ..layers.cache_points import unet_cache_points
from ..layers.plain import OneToken
from .layers import frame_positions, spatio_temporal_resnet, spatio_temporal_transformer


def lower(unet: UNetSpatioTemporalConditionModel) -> Program:
    """Open the blocks, which mix both axes; their resnets, transformers and samplers follow in order."""
    p = Builder(inputs=("sample",), block="in")
    x = p.frames("in", lambda c, x: unet.conv_in(x), "sample", of=[unet.conv_in])
    skips = [x]
    for index, block in enumerate(unet.down_blocks):
        require_open(block, CrossAttnDownBlockSpatioTemporal, DownBlockSpatioTemporal)
        p.block = f"down.{index}"
        for layer, resnet in enumerate(block.resnets):
            x = spatio_temporal_resnet(p, f"{p.block}.resnet.{layer}", resnet, x)
            if hasattr(block, "attentions"):
                x = spatio_temporal_transformer(p, f"{p.block}.attention.{layer}", block.attentions[layer], x)
            skips.append(x)
        if block.downsamplers is not None:
            x = downsample(p, f"{p.block}.downsample", block.downsamplers, x)
            skips.append(x)

    p.block = "mid"
    require_open(unet.mid_block, UNetMidBlockSpatioTemporal)
    x = spatio_temporal_resnet(p, "mid.resnet.0", unet.mid_block.resnets[0], x)
    for layer, (attention, resnet) in enumerate(
        zip(unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True)
    ):
        x = spatio_temporal_transformer(p, f"mid.attention.{layer}", attention, x)
        x = spatio_temporal_resnet(p, f"mid.resnet.{layer + 1}", resnet, x)

    for index, block in enumerate(unet.up_blocks):
        require_open(block, CrossAttnUpBlockSpatioTemporal, UpBlockSpatioTemporal)
        p.block = f"up.{index}"
        for layer, resnet in enumerate(block.resnets):
            x = p.frames(f"{p.block}.join.{layer}", _join, x, skips.pop(), kind="join")
            x = spatio_temporal_resnet(p, f"{p.block}.resnet.{layer}", resnet, x)
            if hasattr(block, "attentions"):
                x = spatio_temporal_transformer(p, f"{p.block}.attention.{layer}", block.attentions[layer], x)
        x = upsample(p, f"{p.block}.upsample", block.upsamplers, x, skips[-1] if skips else None, nn.Module.__call__)

    p.block = "out"
    output = project_out(p, unet.conv_norm_out, unet.conv_act, unet.conv_out, x)
    return p.build(output, unet_cache_points(p.stages))


def _join(c: Conditions, x: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([x, skip], dim=1)


def forward(
    unet: UNetSpatioTemporalConditionModel,
    execute: Callable[[dict[str, Tensor], Conditions], Tensor],
    sample: Tensor,
    timestep: Tensor | float | int,
    encoder_hidden_states: Tensor,
    added_time_ids: Tensor,
    return_dict: bool = True,
) -> UNetSpatioTemporalConditionOutput | tuple[Tensor]:
    """UNetSpatioTemporalConditionModel.forward, its blocks run by `execute`.

    sample: (batch, frames, channels, height, width) of latents. Returns the same with the output channels.
    """
    batch, frames = sample.shape[:2]
    time = unet.time_proj(as_timesteps(timestep, batch, sample.device)).to(sample.dtype)
    emb = unet.time_embedding(time)
    added = unet.add_time_proj(added_time_ids.flatten()).reshape(batch, -1).to(emb.dtype)
    emb = emb + unet.add_embedding(added)

    transformers = [module for module in parts_of(unet) if isinstance(module, TransformerSpatioTemporalModel)]
    conditions = Conditions(
        batch,
        frames,
        rows={
            "emb": emb.repeat_interleave(frames, dim=0),
            "encoder_hidden_states": encoder_hidden_states.repeat_interleave(frames, dim=0),
            "image_only_indicator": torch.zeros(batch * frames, dtype=sample.dtype, device=sample.device),
        },
        shared={
            "frame_positions": {model: frame_positions(model, frames, sample) for model in transformers},
            "one_token": OneToken(encoder_hidden_states, frames) if encoder_hidden_states.shape[1] == 1 else None,
            "resize": needs_resize(sample, unet.num_upsamplers),
        },
    )
    output = execute({"sample": sample.flatten(0, 1)}, conditions).unflatten(0, (batch, frames))
    return UNetSpatioTemporalConditionOutput(sample=output) if return_dict else (output,)


def example(unet: UNetSpatioTemporalConditionModel, shape: Shape) -> dict:
    """Return arguments of the right shapes for one call."""
    channels, time_ids = unet.config.cross_attention_dim, unet.add_embedding.linear_1.in_features
    channels = channels if isinstance(channels, int) else channels[0]
    return {
        "sample": torch.zeros(shape.batch, shape.frames, unet.config.in_channels, shape.height, shape.width),
        "timestep": torch.tensor(0.0),
        "encoder_hidden_states": torch.zeros(shape.batch, 1, channels),
        "added_time_ids": torch.zeros(shape.batch, time_ids // unet.config.addition_time_embed_dim),
    }
