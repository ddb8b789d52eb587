"""Layers that Stable Video Diffusion's UNet and decoder share: spatial and temporal ones in turn, blended."""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from ...program.conditions import Conditions
from ...program.stages import Builder
from ..layers import plain
from ..layers.blocks import require, require_open, resnet, to_rows, to_video
from ..layers.plain import activate, convolve_frames, is_plain, opens_transformer, spatial_fraction


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
            fraction = spatial_fraction(block.time_mixer, indicator, spatial)
            return to_rows(spatial + hidden.mul_(1 - fraction))
        shortcut = spatial if temporal.conv_shortcut is None else temporal.conv_shortcut(spatial)
        mixed = block.time_mixer(x_spatial=spatial, x_temporal=shortcut + hidden, image_only_indicator=indicator)
        return to_rows(mixed)

    x = resnet(p, f"{name}.spatial", block.spatial_res_block, x)
    first = (temporal.nonlinearity, temporal.conv1, temporal.time_emb_proj)
    second = (temporal.nonlinearity, temporal.dropout, temporal.conv2, temporal.conv_shortcut, block.time_mixer)
    kind = "temporal resnet, first half"
    hidden = p.pixels(f"{name}.temporal.0", first_half, x, norm=temporal.norm1, of=first, kind=kind)
    kind = f"temporal resnet, second half{', open' if is_plain_mixer else ''}"
    return p.pixels(f"{name}.temporal.1", second_half, hidden, x, norm=temporal.norm2, of=second, kind=kind)


def spatio_temporal_transformer(p: Builder, name: str, model: TransformerSpatioTemporalModel, x: str) -> str:
    """TransformerSpatioTemporalModel: spatial and temporal transformer blocks in turn, on tokens."""
    require_open(model, TransformerSpatioTemporalModel)

    def enter(c: Conditions, x: Tensor) -> Tensor:
        return model.proj_in(model.norm(x).flatten(2).transpose(1, 2))

    def leave(c: Conditions, tokens: Tensor, x: Tensor) -> Tensor:
        # x first: the sum takes the memory layout of its first operand, and x has the image's.
        return x + model.proj_out(tokens).transpose(1, 2).reshape(x.shape)

    tokens = p.frames(f"{name}.in", enter, x, of=[model.norm, model.proj_in], kind="tokens in")
    is_plain_mixer = is_plain(model.time_mixer, AlphaBlender)
    pairs = zip(model.transformer_blocks, model.temporal_transformer_blocks, strict=True)
    for index, (spatial, temporal) in enumerate(pairs):
        require(spatial, BasicTransformerBlock)
        opens_spatial, opens_temporal = opens_transformer(spatial), is_plain_mixer and opens_transformer(temporal)

        def spatial_block(
            c: Conditions, tokens: Tensor, block: nn.Module = spatial, opens: bool = opens_spatial
        ) -> Tensor:
            if opens and c["one_token"] is not None:
                return plain.spatial_block(block, tokens, c.in_view(c["one_token"].of(block.attn2)))
            return block(tokens, encoder_hidden_states=c["encoder_hidden_states"])

        def temporal_block(
            c: Conditions,
            tokens: Tensor,
            block: nn.Module = temporal,
            opens: bool = opens_temporal,
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
                fraction = spatial_fraction(model.time_mixer, indicator, tokens)
                fraction = fraction.unflatten(0, (c.batch, -1)) if fraction.ndim == tokens.ndim else fraction
                return torch.lerp(mixed, rows, fraction).flatten(0, 1)
            context = c["encoder_hidden_states"].unflatten(0, (c.batch, -1))[:, 0]
            context = context.repeat_interleave(tokens.shape[1], dim=0)
            mixed = block(tokens + position.repeat(c.batch, 1, 1), num_frames=c.frames, encoder_hidden_states=context)
            return model.time_mixer(x_spatial=tokens, x_temporal=mixed, image_only_indicator=indicator)

        kind = f"spatial block{', open' if opens_spatial else ''}"
        tokens = p.frames(f"{name}.{index}.spatial", spatial_block, tokens, of=[spatial], kind=kind)
        kind = f"temporal block{', open' if opens_temporal else ''}"
        of = [temporal, model.time_mixer]
        tokens = p.pixels(f"{name}.{index}.temporal", temporal_block, tokens, of=of, kind=kind)
    return p.frames(f"{name}.out", leave, tokens, x, of=[model.proj_out], kind="tokens out")


def frame_positions(model: TransformerSpatioTemporalModel, frames: int, like: Tensor) -> Tensor:
    """The transformer's embedding of frame numbers, (frames, 1, channels)."""
    numbers = torch.arange(frames, device=like.device)
    return model.time_pos_embed(model.time_proj(numbers).to(like.dtype))[:, None]
