"""AnimateDiff's UNet, UNetMotionModel, as a program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNetMotionModel
from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from diffusers.models.unets.unet_motion_model import (
    AnimateDiffTransformer3D,
    CrossAttnDownBlockMotion,
    CrossAttnUpBlockMotion,
    DownBlockMotion,
    UNetMidBlockCrossAttnMotion,
    UNetMotionOutput,
    UpBlockMotion,
)
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from ...errors import InputError, UnsupportedError
from ...program.conditions import Conditions
from ...program.stages import Builder, Program
from ..base import Shape
from ..layers.arguments import as_timesteps, needs_resize
from ..layers.blocks import downsample, join, project_out, require, require_open, resnet, to_video, upsample
from ..layers.cache_points import unet_cache_points
from ..layers.plain import is_plain, opens_transformer, pieces_of, transformer_block

SDXL_TIME_IDS = 6  # original size, crop corner and target size, two numbers each


def lower(unet: UNetMotionModel) -> Program:
    """Open the blocks: resnets and spatial transformers over frames, motion modules over pixels."""
    p = Builder(inputs=("sample",), block="in")
    x = p.frames("in", lambda c, x: unet.conv_in(x), "sample", of=[unet.conv_in])
    skips = [x]
    for index, block in enumerate(unet.down_blocks):
        require_open(block, CrossAttnDownBlockMotion, DownBlockMotion)
        p.block = f"down.{index}"
        for layer in range(len(block.resnets)):
            x = _layer(p, block, layer, x)
            skips.append(x)
        if block.downsamplers is not None:
            x = downsample(p, f"{p.block}.downsample", block.downsamplers, x, _call_sampler)
            skips.append(x)

    p.block = "mid"
    x = _mid(p, unet.mid_block, x)

    for index, block in enumerate(unet.up_blocks):
        require_open(block, CrossAttnUpBlockMotion, UpBlockMotion)
        p.block = f"up.{index}"
        for layer in range(len(block.resnets)):
            add = functools.partial(_add_residuals, len(skips) - 1, f"{p.block}.{layer}" == "up.0.0")
            x = join(p, f"{p.block}.join.{layer}", block, x, skips.pop(), add)
            x = _layer(p, block, layer, x)
        x = upsample(p, f"{p.block}.upsample", block.upsamplers, x, skips[-1] if skips else None, _call_upsampler)

    p.block = "out"
    output = project_out(p, unet.conv_norm_out, unet.conv_act, unet.conv_out, x)
    return p.build(output, unet_cache_points(p.stages))


def _call_resnet(block: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
    return block(input_tensor=x, temb=emb)


def _call_sampler(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(hidden_states=x)


def _call_upsampler(layer: nn.Module, x: Tensor, size: torch.Size | None) -> Tensor:
    return layer(hidden_states=x, output_size=size)


def _layer(p: Builder, block: nn.Module, layer: int, x: str) -> str:
    x = resnet(p, f"{p.block}.resnet.{layer}", block.resnets[layer], x, _call_resnet)
    if hasattr(block, "attentions"):
        x = _attention(p, f"{p.block}.attention.{layer}", block.attentions[layer], x)
    return _motion(p, f"{p.block}.motion.{layer}", block.motion_modules[layer], x)


def _mid(p: Builder, block: nn.Module | None, x: str) -> str:
    """The middle block, after which a control network's residual is added."""
    if isinstance(block, UNetMidBlock2DCrossAttn):
        x = p.frames("mid.spatial", lambda c, x: block(x, c["emb"], attention_mask=None, **_text(c)), x, of=[block])
    elif block is not None:
        require_open(block, UNetMidBlockCrossAttnMotion)
        x = resnet(p, "mid.resnet.0", block.resnets[0], x, _call_resnet)
        for layer, attention in enumerate(block.attentions):
            x = _attention(p, f"mid.attention.{layer}", attention, x)
            x = _motion(p, f"mid.motion.{layer}", block.motion_modules[layer], x)
            x = resnet(p, f"mid.resnet.{layer + 1}", block.resnets[layer + 1], x, _call_resnet)
    return x


def _add_residuals(position: int, is_first: bool, c: Conditions, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    """Add what a control network gives to a skip, and to what comes out of the middle block.

    position: of the skip among all skips, by which a control network's residuals are counted.
    """
    if c["mid_residual"] is not None and is_first:
        x = x + c["mid_residual"]
    if c["skip_residuals"] is not None:
        skip = skip + c["skip_residuals"][position]
    return x, skip


def _attention(p: Builder, name: str, model: nn.Module, x: str) -> str:
    require(model, Transformer2DModel, DualTransformer2DModel)
    masks = {"attention_mask": None, "encoder_attention_mask": None}
    if is_plain(model, Transformer2DModel) and model.is_input_continuous:
        opened = tuple(map(opens_transformer, model.transformer_blocks))
        return p.frames(name, transformer(model, opened), x, of=[model], kind=f"transformer, open {opened}")

    def run(c: Conditions, x: Tensor) -> Tensor:
        return model(hidden_states=x, return_dict=False, **masks, **_text(c))[0]

    return p.frames(name, run, x, of=[model], kind="transformer")


def transformer(model: Transformer2DModel, opened: tuple[bool, ...]) -> Callable[[Conditions, Tensor], Tensor]:
    """Transformer2DModel on images, whose tokens are views of images that are channels last.

    opened: for each of its blocks, whether it is run part by part.
    """

    def run(c: Conditions, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        text = _text(c)
        tokens = model.norm(x)
        tokens = tokens if model.use_linear_projection else model.proj_in(tokens)
        tokens = tokens.permute(0, 2, 3, 1).flatten(1, 2)
        tokens = model.proj_in(tokens) if model.use_linear_projection else tokens
        for block, is_open in zip(model.transformer_blocks, opened, strict=True):
            if is_open:
                tokens = transformer_block(block, tokens, pieces_of(height * width), *text.values())
            else:
                tokens = block(tokens, **text)
        tokens = model.proj_out(tokens) if model.use_linear_projection else tokens
        images = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return x + (images if model.use_linear_projection else model.proj_out(images))

    return run


def _text(c: Conditions) -> dict[str, Any]:
    return {
        "encoder_hidden_states": c["encoder_hidden_states"],
        "cross_attention_kwargs": c["cross_attention_kwargs"],
    }


def _motion(p: Builder, name: str, module: AnimateDiffTransformer3D, x: str) -> str:
    """A motion module, opened because its norm spans frames and pixels; its transformer blocks are called."""
    require_open(module, AnimateDiffTransformer3D)
    require_open(module.norm, nn.GroupNorm)

    plain = tuple(map(opens_transformer, module.transformer_blocks))

    def run(norm: nn.Module, c: Conditions, x: Tensor) -> Tensor:
        video = to_video(x, c.batch)
        batch, channels, frames, pixels, _ = video.shape
        tokens = norm(video).permute(0, 3, 4, 2, 1).reshape(batch * pixels, frames, channels)
        tokens = module.proj_in(input=tokens)
        for block, is_open in zip(module.transformer_blocks, plain, strict=True):
            if is_open:
                tokens = transformer_block(block, tokens, pieces_of(c.pixels or pixels))
                continue
            tokens = block(
                hidden_states=tokens,
                encoder_hidden_states=None,
                timestep=None,
                cross_attention_kwargs=None,
                class_labels=None,
            )
        tokens = module.proj_out(input=tokens).unflatten(0, (batch, pixels))
        return x + tokens.permute(0, 2, 3, 1).reshape(x.shape)

    parts = (module.proj_in, *module.transformer_blocks, module.proj_out)
    return p.pixels(name, run, x, norm=module.norm, of=parts, kind=f"motion module, open {plain}")


@apply_lora_scale("cross_attention_kwargs")
def forward(
    unet: UNetMotionModel,
    execute: Callable[[dict[str, Tensor], Conditions], Tensor],
    sample: Tensor,
    timestep: Tensor | float | int,
    encoder_hidden_states: Tensor,
    timestep_cond: Tensor | None = None,
    attention_mask: Tensor | None = None,
    cross_attention_kwargs: dict[str, Any] | None = None,
    added_cond_kwargs: dict[str, Any] | None = None,
    down_block_additional_residuals: tuple[Tensor, ...] | None = None,
    mid_block_additional_residual: Tensor | None = None,
    return_dict: bool = True,
) -> UNetMotionOutput | tuple[Tensor]:
    """UNetMotionModel.forward, its blocks run by `execute`.

    sample: (batch, channels, frames, height, width) of latents. encoder_hidden_states: (batch x frames, tokens,
    channels). Returns (batch, channels, frames, height, width). Raises UnsupportedError for an attention mask.
    """
    if attention_mask is not None:
        raise UnsupportedError("An attention_mask for AnimateDiff's UNet is not supported; leave it out.")
    batch, _, frames = sample.shape[:3]
    time = unet.time_proj(as_timesteps(timestep, batch, sample.device)).to(sample.dtype)
    emb = unet.time_embedding(time, timestep_cond)
    if unet.config.addition_embed_type == "text_time":
        time_ids = unet.add_time_proj(added_cond_kwargs["time_ids"].flatten()).reshape(batch, -1)
        emb = emb + unet.add_embedding(torch.cat([added_cond_kwargs["text_embeds"], time_ids], dim=-1).to(emb.dtype))

    if unet.encoder_hid_proj is not None and unet.config.encoder_hid_dim_type == "ip_image_proj":
        images = unet.encoder_hid_proj(added_cond_kwargs["image_embeds"])
        images = [image.repeat_interleave(frames, dim=0) for image in images]
        encoder_hidden_states = (encoder_hidden_states, images)

    def for_each_row(residual: Tensor | None) -> Tensor | None:
        """A residual may be one for all rows, which a slice of them could not tell."""
        return None if residual is None else residual.expand(batch * frames, *residual.shape[1:])

    skip_residuals = down_block_additional_residuals
    conditions = Conditions(
        batch,
        frames,
        rows={
            "emb": emb.repeat_interleave(frames, dim=0),
            "encoder_hidden_states": encoder_hidden_states,
            "skip_residuals": skip_residuals and [for_each_row(residual) for residual in skip_residuals],
            "mid_residual": for_each_row(mid_block_additional_residual),
        },
        shared={
            "cross_attention_kwargs": cross_attention_kwargs,
            "resize": needs_resize(sample, unet.num_upsamplers),
        },
    )
    rows = sample.transpose(1, 2).flatten(0, 1)
    output = execute({"sample": rows}, conditions).unflatten(0, (batch, frames)).transpose(1, 2)
    return UNetMotionOutput(sample=output) if return_dict else (output,)


def example(unet: UNetMotionModel, shape: Shape) -> dict:
    """Return arguments of the right shapes for one call.

    Raises InputError for more frames than the motion modules have positions for.
    """
    if shape.frames > unet.config.motion_max_seq_length:
        raise InputError(f"This model makes at most {unet.config.motion_max_seq_length} frames, not {shape.frames}.")
    channels = unet.config.cross_attention_dim
    channels = channels if isinstance(channels, int) else channels[0]
    arguments = {
        "sample": torch.zeros(shape.batch, unet.config.in_channels, shape.frames, shape.height, shape.width),
        "timestep": torch.tensor(0),
        "encoder_hidden_states": torch.zeros(shape.batch * shape.frames, shape.tokens, channels),
    }
    if unet.config.addition_embed_type == "text_time":
        time_ids = torch.zeros(shape.batch, SDXL_TIME_IDS)
        text = unet.add_embedding.linear_1.in_features - SDXL_TIME_IDS * unet.config.addition_time_embed_dim
        arguments["added_cond_kwargs"] = {"text_embeds": torch.zeros(shape.batch, text), "time_ids": time_ids}
    return arguments
