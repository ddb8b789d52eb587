"""Stages that several networks share, and the two views of features that pixel stages convert between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import (
    AlphaBlender,
    Downsample2D,
    ResnetBlock2D,
    SpatioTemporalResBlock,
    TemporalResnetBlock,
    Upsample2D,
)
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.pipelines.free_noise_utils import SplitInferenceModule
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..execution.conditions import Conditions
from ..execution.program import Builder
from . import plain
from .plain import activate, convolve_frames, is_plain, opens_resnet, opens_transformer, spatial_share


def to_video(rows: Tensor, batch: int) -> Tensor:
    """(batch x frames, channels, pixels, 1) -> (batch, channels, frames, pixels, 1), a view."""
    return rows.unflatten(0, (batch, -1)).transpose(1, 2)


def to_rows(video: Tensor) -> Tensor:
    """(batch, channels, frames, pixels, 1) -> (batch x frames, channels, pixels, 1); a view for one sample."""
    return video.transpose(1, 2).flatten(0, 1)


def require(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Raise UnsupportedError unless the module is exactly of one of these classes, whose insides are known.

    FreeNoise's split inference wraps modules that are called, and calls them piece by piece: that goes with
    slices, so what counts is the module inside.
    """
    if isinstance(module, SplitInferenceModule):
        module = module.module
    if type(module) not in kinds:
        known = " or ".join(kind.__name__ for kind in kinds)
        raise UnsupportedError(f"This network has a {type(module).__name__} where a {known} was expected.")


def require_open(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Require a class whose parts are called in its place, and that nothing waits for it to be called itself."""
    require(module, *kinds)
    hooks = module._forward_pre_hooks or module._forward_hooks
    if hooks or module._compiled_call_impl is not None:
        raise UnsupportedError(
            f"A {type(module).__name__} is run part by part, so hooks on it or compiling it would have no "
            "effect; use them on its parts, or on the whole network."
        )


def resnet(p: Builder, name: str, block: nn.Module, x: str, call: Callable[..., Tensor] = nn.Module.__call__) -> str:
    """A spatial ResnetBlock2D, conditioned on the time embedding where the network has one.

    call: call(block, x, emb) calls it just as diffusers does there, by position or by name: hooks can tell.
    """
    if opens_resnet(block):
        return p.frames(name, lambda c, x: plain.resnet(block, x, c["emb"]), x, of=[block])
    return p.frames(name, lambda c, x: call(block, x, c["emb"]), x, of=[block])


def spatio_temporal_resnet(p: Builder, name: str, block: SpatioTemporalResBlock, x: str) -> str:
    """SpatioTemporalResBlock: a spatial resnet, a temporal one, and their blend.

    The temporal resnet is opened because both its norms span frames and pixels.
    """
    require_open(block, SpatioTemporalResBlock)
    require(block.spatial_res_block, ResnetBlock2D)
    temporal = block.temporal_res_block
    require_open(temporal, TemporalResnetBlock)
    require_open(temporal.norm1, nn.GroupNorm)
    require_open(temporal.norm2, nn.GroupNorm)

    def first_half(norm: nn.Module, c: Conditions, x: Tensor) -> Tensor:
        hidden = convolve_frames(temporal.conv1, activate(temporal.nonlinearity, norm(to_video(x, c.batch))))
        if temporal.time_emb_proj is not None:
            emb = temporal.time_emb_proj(temporal.nonlinearity(c["emb"]))
            hidden = hidden + to_video(emb[:, :, None, None], c.batch)
        return to_rows(hidden)

    is_plain_mixer = temporal.conv_shortcut is None and is_plain(block.time_mixer, AlphaBlender)

    def second_half(norm: nn.Module, c: Conditions, hidden: Tensor, x: Tensor) -> Tensor:
        spatial = to_video(x, c.batch)
        hidden = temporal.dropout(activate(temporal.nonlinearity, norm(to_video(hidden, c.batch))))
        hidden = convolve_frames(temporal.conv2, hidden)
        indicator = c["image_only_indicator"].unflatten(0, (c.batch, -1))
        if is_plain_mixer:
            # a x + (1 - a) (x + hidden)
            share = spatial_share(block.time_mixer, indicator, spatial)
            return to_rows(spatial + hidden.mul_(1 - share))
        shortcut = spatial if temporal.conv_shortcut is None else temporal.conv_shortcut(spatial)
        mixed = block.time_mixer(x_spatial=spatial, x_temporal=shortcut + hidden, image_only_indicator=indicator)
        return to_rows(mixed)

    x = resnet(p, f"{name}.spatial", block.spatial_res_block, x)
    first, second = (temporal.conv1, temporal.time_emb_proj), (temporal.conv2, temporal.conv_shortcut, block.time_mixer)
    hidden = p.pixels(f"{name}.temporal.0", first_half, x, norm=temporal.norm1, of=first)
    return p.pixels(f"{name}.temporal.1", second_half, hidden, x, norm=temporal.norm2, of=second)


def spatio_temporal_transformer(p: Builder, name: str, model: TransformerSpatioTemporalModel, x: str) -> str:
    """TransformerSpatioTemporalModel: spatial and temporal transformer blocks in turn, on tokens."""
    require_open(model, TransformerSpatioTemporalModel)

    def enter(c: Conditions, x: Tensor) -> Tensor:
        return model.proj_in(model.norm(x).flatten(2).transpose(1, 2))

    def leave(c: Conditions, tokens: Tensor, x: Tensor) -> Tensor:
        # x first: the sum takes the memory layout of its first operand, and x has the image's.
        return x + model.proj_out(tokens).transpose(1, 2).reshape(x.shape)

    tokens = p.frames(f"{name}.in", enter, x, of=[model.norm, model.proj_in])
    is_plain_mixer = is_plain(model.time_mixer, AlphaBlender)
    pairs = zip(model.transformer_blocks, model.temporal_transformer_blocks, strict=True)
    for index, (spatial, temporal) in enumerate(pairs):
        require(spatial, BasicTransformerBlock)

        def spatial_block(
            c: Conditions, tokens: Tensor, block: nn.Module = spatial, opens: bool = opens_transformer(spatial)
        ) -> Tensor:
            if opens and c["one_token"] is not None:
                return plain.spatial_block(block, tokens, c.in_view(c["one_token"].of(block.attn2)))
            return block(tokens, encoder_hidden_states=c["encoder_hidden_states"])

        def temporal_block(
            c: Conditions,
            tokens: Tensor,
            block: nn.Module = temporal,
            opens: bool = is_plain_mixer and opens_transformer(temporal),
        ) -> Tensor:
            position = c["frame_positions"][model]
            indicator = c["image_only_indicator"].unflatten(0, (c.batch, -1))
            # Every pixel of a sample attends to the context of the sample's first frame, as in diffusers.
            if opens and c["one_token"] is not None:
                crossed = c.in_view(c["one_token"].of(block.attn2)).unflatten(0, (c.batch, -1))[:, 0]
                rows = tokens.unflatten(0, (c.batch, -1))
                pieces = plain.pieces_of(c.pixels or tokens.shape[1])
                mixed = plain.temporal_block(block, rows.transpose(1, 2) + position[:, 0], pieces, crossed)
                mixed = mixed.transpose(1, 2)
                share = spatial_share(model.time_mixer, indicator, tokens)
                share = share.unflatten(0, (c.batch, -1)) if share.ndim == tokens.ndim else share
                return torch.lerp(mixed, rows, share).flatten(0, 1)
            context = c["encoder_hidden_states"].unflatten(0, (c.batch, -1))[:, 0]
            context = context.repeat_interleave(tokens.shape[1], dim=0)
            mixed = block(tokens + position.repeat(c.batch, 1, 1), num_frames=c.frames, encoder_hidden_states=context)
            return model.time_mixer(x_spatial=tokens, x_temporal=mixed, image_only_indicator=indicator)

        tokens = p.frames(f"{name}.{index}.spatial", spatial_block, tokens, of=[spatial])
        tokens = p.pixels(f"{name}.{index}.temporal", temporal_block, tokens, of=[temporal, model.time_mixer])
    return p.frames(f"{name}.out", leave, tokens, x, of=[model.proj_out])


def frame_positions(model: TransformerSpatioTemporalModel, frames: int, like: Tensor) -> Tensor:
    """The transformer's embedding of frame numbers, (frames, 1, channels)."""
    numbers = torch.arange(frames, device=like.device)
    return model.time_pos_embed(model.time_proj(numbers).to(like.dtype))[:, None]


def downsample(
    p: Builder, name: str, layers: nn.ModuleList | None, x: str, call: Callable[..., Tensor] = nn.Module.__call__
) -> str:
    """The downsamplers of a down block, if it has any; call(layer, x) as diffusers does there."""
    for index, layer in enumerate(layers or ()):
        require(layer, Downsample2D)
        x = p.frames(f"{name}.{index}", lambda c, x, layer=layer: call(layer, x), x, of=[layer])
    return x


def upsample(
    p: Builder, name: str, layers: nn.ModuleList | None, x: str, next_skip: str | None, call: Callable[..., Tensor]
) -> str:
    """The upsamplers of an up block of a UNet, if it has any; call(layer, x, size) as diffusers does there.

    next_skip: the skip value the result will be joined with. Where halving had rounded, the result takes that
        value's height and width (diffusers' `upsample_size`); condition "resize" says so.
    """

    def run(c: Conditions, x: Tensor, *skip: Tensor, layer: nn.Module) -> Tensor:
        return call(layer, x, skip[0].shape[2:] if skip and c["resize"] else None)

    for index, layer in enumerate(layers or ()):
        require(layer, Upsample2D)
        reads = (x,) if next_skip is None else (x, next_skip)
        x = p.frames(
            f"{name}.{index}", lambda c, *slices, layer=layer: run(c, *slices, layer=layer), *reads, of=[layer]
        )
    return x


def double(p: Builder, name: str, layers: nn.ModuleList | None, x: str) -> str:
    """The upsamplers of an up block of a decoder, if it has any."""
    for index, layer in enumerate(layers or ()):
        require(layer, Upsample2D)
        x = p.frames(f"{name}.{index}", lambda c, x, layer=layer: layer(x), x, of=[layer])
    return x


def project_out(p: Builder, norm: nn.Module | None, act: nn.Module, conv: nn.Module, x: str) -> str:
    """The closing norm, activation and convolution of a network."""
    if norm is None:
        return p.frames("out", lambda c, x: conv(x), x, of=[conv])
    return p.frames("out", lambda c, x: conv(act(norm(x))), x, of=[norm, act, conv])
