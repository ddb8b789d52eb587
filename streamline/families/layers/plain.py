"""Exact shortcuts through diffusers' layers: the same numbers in fewer passes over memory, and in less of it.

A layer is taken apart only where nobody could tell: it is of the very class whose arithmetic is known, and no hook
waits in it. Everywhere else it is called as a black box. Sums and activations are written over what the layer itself
has just made.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward, TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from ...program.casting import is_cast
from ...program.parts import parts_of

# A feed-forward layer is run in up to so many pieces: it then takes no more memory than attention does, and large ones
# take less time, for the caches' sake. On few pixels a row, fewer: each piece has to be worth its calls.
PIECES = 4
LEAST_PIXELS = 32


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is exactly of one of these classes, and nobody put a hook or another forward into it."""
    if type(module) not in kinds or _has_any_global_hook():
        return False
    return not any(map(_is_altered, parts_of(module)))


def _is_altered(part: nn.Module) -> bool:
    is_hooked = part._forward_pre_hooks or part._forward_hooks or ("forward" in vars(part) and not is_cast(part))
    return bool(is_hooked) or part._compiled_call_impl is not None


def is_touched(network: nn.Module) -> bool:
    """Whether somebody hooked a part of a network, changed its processor or set it to run in chunks.

    It may be called whole for that.
    """

    def is_changed(part: nn.Module) -> bool:
        is_other = isinstance(part, Attention) and type(part.processor) is not AttnProcessor2_0
        return is_other or _is_altered(part) or bool(vars(part).get("_chunk_size"))

    return any(map(is_changed, parts_of(network)[1:]))


def opens_resnet(block: nn.Module) -> bool:
    """Whether `resnet` computes what a ResnetBlock2D does."""
    if not is_plain(block, ResnetBlock2D):
        return False
    is_sized = block.upsample is not None or block.downsample is not None
    return not is_sized and block.time_embedding_norm == "default" and not block.skip_time_act


def opens_transformer(block: nn.Module) -> bool:
    """Whether a transformer block may be run part by part: with layer norms, and its feed-forward in one piece."""
    if not is_plain(block, BasicTransformerBlock, TemporalBasicTransformerBlock) or block._chunk_size is not None:
        return False
    if type(block.ff) is not FeedForward:
        return False
    if any(attention.residual_connection for attention in (block.attn1, block.attn2) if attention is not None):
        return False
    if isinstance(block, TemporalBasicTransformerBlock):
        return block.is_res and block.attn2 is not None
    is_known = block.norm_type == "layer_norm" and not block.only_cross_attention
    return is_known and not hasattr(block, "fuser") and block.attn2 is not None


def activate(layer: nn.Module, x: Tensor) -> Tensor:
    """An activation of something that nobody else holds."""
    return F.silu(x, inplace=True) if is_plain(layer, nn.SiLU) else layer(x)


def resnet(block: ResnetBlock2D, x: Tensor, emb: Tensor | None) -> Tensor:
    """ResnetBlock2D on (rows, channels, height, width); emb: (rows, embedding channels)."""
    hidden = block.conv1(activate(block.nonlinearity, block.norm1(x)))
    if block.time_emb_proj is not None:
        hidden += block.time_emb_proj(block.nonlinearity(emb))[:, :, None, None]
    hidden = block.norm2(hidden)
    hidden = block.conv2(block.dropout(activate(block.nonlinearity, hidden)))
    hidden += x if block.conv_shortcut is None else block.conv_shortcut(x)
    return hidden if block.output_scale_factor == 1 else hidden.div_(block.output_scale_factor)


def pieces_of(pixels: int) -> int:
    """In how many pieces feed-forward layers run on rows of so many pixels, of which a slice may have fewer.

    Not by the slice's own size: predictions read what a slice takes off the line through two others.
    """
    return max(1, min(PIECES, pixels // LEAST_PIXELS))


def feed_forward(norm: nn.LayerNorm, layer: FeedForward, tokens: Tensor, pieces: int) -> Tensor:
    """tokens + layer(norm(tokens)), written over the tokens, which belong to nobody else.

    Piece by piece: between its linear layers each token is eight times as wide.
    """
    if torch.is_grad_enabled():  # which has no room for values that are written over
        return tokens + _fed_forward(layer, norm(tokens))
    tokens = tokens.contiguous()
    for piece in tokens.view(-1, tokens.shape[-1]).chunk(pieces):
        piece += _fed_forward(layer, norm(piece))
    return tokens


def _fed_forward(layer: FeedForward, tokens: Tensor) -> Tensor:
    gated, *rest = layer.net
    if type(gated) is GEGLU:
        hidden, gate = gated.proj(tokens).chunk(2, dim=-1)
        del tokens
        hidden = gated.gelu(gate).mul_(hidden)
        del gate
    else:
        hidden = gated(tokens)
        del tokens
    for part in rest:
        hidden = part(hidden)
    return hidden


def opens_attention(layer: nn.Module) -> bool:
    """Whether `attention` may compute what a layer within a plain transformer block does: it does nothing else."""
    if type(layer) is not Attention or type(layer.processor) is not AttnProcessor2_0:
        return False
    norms = (layer.spatial_norm, layer.group_norm, layer.norm_cross, layer.norm_q, layer.norm_k)
    return not any(norms) and not layer.residual_connection and layer.rescale_output_factor == 1


def attention(
    layer: Attention, tokens: Tensor, context: Tensor | None = None, options: dict[str, Any] | None = None
) -> Tensor:
    """Attention on (samples, tokens, channels) to themselves, or to a context. options: for the processor."""
    if options or not opens_attention(layer):
        return layer(tokens, encoder_hidden_states=context, **(options or {}))
    context = tokens if context is None else context

    def split(channels: Tensor) -> Tensor:
        return channels.view(*channels.shape[:2], layer.heads, -1).transpose(1, 2)

    query, key, value = split(layer.to_q(tokens)), split(layer.to_k(context)), split(layer.to_v(context))
    del tokens, context
    mixed = F.scaled_dot_product_attention(query, key, value)
    del query, key, value
    return _leave(layer, mixed.transpose(1, 2).flatten(2))


def _leave(layer: Attention, mixed: Tensor) -> Tensor:
    for part in layer.to_out:
        mixed = part(mixed)
    return mixed


def transformer_block(
    block: BasicTransformerBlock,
    tokens: Tensor,
    pieces: int,
    context: Any = None,
    options: dict[str, Any] | None = None,
) -> Tensor:
    """BasicTransformerBlock on (samples, tokens, channels). options: for the attention processors."""
    options = {key: value for key, value in (options or {}).items() if key != "gligen"}
    tokens = attention(block.attn1, _placed(block, block.norm1(tokens)), None, options).add_(tokens)
    tokens = attention(block.attn2, _placed(block, block.norm2(tokens)), context, options).add_(tokens)
    return feed_forward(block.norm3, block.ff, tokens, pieces)


def _placed(block: BasicTransformerBlock, tokens: Tensor) -> Tensor:
    return tokens if block.pos_embed is None else block.pos_embed(tokens)


class OneToken:
    """Cross attention to a context of one token: its softmax is over one value, so every query gets the same.

    It is worked out once a call of the network, at the first use, and kept until the call ends.
    """

    def __init__(self, context: Tensor, frames: int) -> None:
        """context: (samples, 1, channels)."""
        self._context, self._frames = context, frames
        self._known: dict[Attention, Tensor] = {}

    def of(self, layer: Attention) -> Tensor:
        """What an attention adds to every token of a row, (samples x frames, 1, query channels)."""
        if layer not in self._known:
            self._known[layer] = self._by(layer)
        return self._known[layer].repeat_interleave(self._frames, dim=0)

    def _by(self, layer: Attention) -> Tensor:
        if opens_attention(layer):
            return _leave(layer, layer.to_v(self._context))
        query = self._context.new_zeros(len(self._context), 1, layer.query_dim)
        return layer(query, encoder_hidden_states=self._context)


def spatial_block(block: BasicTransformerBlock, tokens: Tensor, crossed: Tensor) -> Tensor:
    """BasicTransformerBlock on (rows, pixels, channels), its cross attention known: crossed (rows, 1, channels)."""
    tokens = attention(block.attn1, _placed(block, block.norm1(tokens))).add_(tokens).add_(crossed)
    return feed_forward(block.norm3, block.ff, tokens, pieces_of(tokens.shape[1]))


def temporal_block(block: TemporalBasicTransformerBlock, tokens: Tensor, pieces: int, crossed: Tensor) -> Tensor:
    """TemporalBasicTransformerBlock on sequences of frames, (batch, pixels, frames, channels).

    crossed: what its cross attention gives, (batch, 1, channels).
    """
    shape = tokens.shape
    tokens = tokens.reshape(-1, *shape[2:])  # a copy, of what nobody holds any more
    tokens = feed_forward(block.norm_in, block.ff_in, tokens, pieces)
    tokens = attention(block.attn1, block.norm1(tokens)).add_(tokens)
    tokens.view(shape).add_(crossed[:, :, None])
    return feed_forward(block.norm3, block.ff, tokens, pieces).view(shape)


def spatial_fraction(mixer: AlphaBlender, indicator: Tensor, like: Tensor) -> Tensor:
    """How much of the spatial features an AlphaBlender leaves, shaped to be multiplied with `like`."""
    alpha = mixer.get_alpha(indicator, like.ndim).to(like.dtype)
    return 1.0 - alpha if mixer.switch_spatial_to_temporal_mix else alpha


def convolve_frames(conv: nn.Module, video: Tensor) -> Tensor:
    """A convolution over frames alone, (batch, channels, frames, pixels, 1) -> the same with its own channels.

    As a two-dimensional one, for which there are faster kernels that take less memory.
    """
    is_known = is_plain(conv, nn.Conv3d) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if not is_known or is_cast(conv) or conv.kernel_size[1:] != (1, 1) or conv.padding[1:] != (0, 0):
        return conv(video)
    (stride, *_), (dilation, *_), (padding, *_) = conv.stride, conv.dilation, conv.padding
    weight = conv.weight.squeeze(4)
    flat = F.conv2d(video.squeeze(4), weight, conv.bias, (stride, 1), (padding, 0), (dilation, 1), conv.groups)
    return flat.unsqueeze(4)
