"""Layers that are taken apart, against diffusers' own, on random ones of many shapes."""

import random

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import nn

from streamline.families.layers import plain
from streamline.hardware.live_tensors import LiveTensors
from streamline.program.parts import parts_of

TOLERANCE = 1e-5


def difference(found, expected):
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def random_attention(rng, **options):
    heads, width = rng.choice([1, 2, 4]), rng.choice([4, 8, 12])
    channels = rng.choice([16, 24, 32])
    context = rng.choice([None, 10])
    layer = Attention(channels, cross_attention_dim=context, heads=heads, dim_head=width, **options).eval()
    tokens = torch.randn(rng.randint(1, 5), rng.randint(1, 30), channels)
    return layer, tokens, None if context is None else torch.randn(len(tokens), rng.randint(1, 7), context)


@pytest.mark.parametrize("seed", range(25))
@torch.no_grad()
def test_attention_is_that_of_diffusers(seed, record_property):
    rng = random.Random(seed)
    layer, tokens, context = random_attention(rng, bias=rng.random() < 0.5, out_bias=rng.random() < 0.5)
    assert plain.opens_attention(layer)
    error = difference(plain.attention(layer, tokens, context), layer(tokens, encoder_hidden_states=context))
    record_property("error: attention taken apart, relative, float32", error)
    assert error <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"norm_num_groups": 4},
        {"qk_norm": "layer_norm"},
        {"cross_attention_norm": "layer_norm", "cross_attention_dim": 32},
        {"residual_connection": True},
        {"rescale_output_factor": 2.0},
        {"spatial_norm_dim": 8},
        {"processor": AttnProcessor()},
    ],
    ids=lambda options: "-".join(options),
)
def test_attention_that_does_more_is_called_whole(options):
    layer = Attention(32, **options)
    assert not plain.opens_attention(layer)
    layer.set_processor(AttnProcessor2_0())
    assert plain.opens_attention(layer) == ("processor" in options)


@torch.no_grad()
def test_options_for_a_processor_reach_it():
    class Doubling(AttnProcessor2_0):
        def __call__(self, *args, times=1, **kwargs):
            return times * super().__call__(*args, **kwargs)

    layer, tokens, context = random_attention(random.Random(0))
    expected = layer(tokens, encoder_hidden_states=context)
    layer.set_processor(Doubling())
    assert difference(plain.attention(layer, tokens, context, {"times": 2}), 2 * expected) <= TOLERANCE


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_one_token_needs_no_query(seed, record_property):
    rng = random.Random(seed)
    layer = Attention(24, cross_attention_dim=10, heads=2, dim_head=8, rescale_output_factor=rng.choice([1.0, 1.5]))
    context, frames = torch.randn(rng.randint(1, 3), 1, 10), rng.randint(1, 4)
    rows = context.repeat_interleave(frames, dim=0)
    expected = layer(torch.randn(len(rows), 1, 24), encoder_hidden_states=rows)
    error = difference(plain.OneToken(context, frames).of(layer.eval()), expected)
    record_property("error: cross attention to one token, relative, float32", error)
    assert error <= TOLERANCE


@pytest.mark.parametrize("seed", range(20))
@torch.no_grad()
def test_feed_forward_in_any_number_of_pieces(seed, record_property):
    rng = random.Random(seed)
    channels = rng.choice([8, 20, 32])
    kind = rng.choice(["geglu", "gelu", "gelu-approximate", "geglu-approximate", "swiglu", "linear-silu"])
    layer, norm = FeedForward(channels, activation_fn=kind).eval(), nn.LayerNorm(channels)
    tokens = torch.randn(rng.randint(1, 4), rng.randint(1, 40), channels)
    expected = tokens + layer(norm(tokens))
    error = difference(plain.feed_forward(norm, layer, tokens.clone(), rng.randint(1, 9)), expected)
    record_property("error: feed-forward in pieces, relative, float32", error)
    assert error <= TOLERANCE


def test_a_transformer_block_takes_less_memory_in_pieces():
    """At its peak a feed-forward layer in four pieces holds less than attention does."""
    block = BasicTransformerBlock(64, 4, 16, activation_fn="geglu", cross_attention_dim=32).eval()
    tokens, context = torch.randn(4, 256, 64), torch.randn(4, 7, 32)
    peaks = {}
    for pieces in (1, 2, 4, 8):
        with torch.no_grad(), LiveTensors([block]) as memory:
            plain.transformer_block(block, tokens, pieces, context)
        peaks[pieces] = memory.peak_bytes / tokens.nbytes
    with torch.no_grad(), LiveTensors([block]) as memory:
        block(tokens, encoder_hidden_states=context)
    assert memory.peak_bytes / tokens.nbytes > peaks[1] > peaks[2] > peaks[4] == peaks[8]


@pytest.mark.parametrize("pixels", range(1, 300, 7))
def test_pieces_are_never_small(pixels):
    pieces = plain.pieces_of(pixels)
    assert 1 <= pieces <= plain.PIECES
    assert pieces == 1 or pixels / pieces >= plain.LEAST_PIXELS


def test_parts_are_the_modules():
    shared = nn.SiLU()
    module = nn.Sequential(shared, nn.Sequential(nn.Linear(2, 2), shared), nn.Module())
    module.register_module("nothing", None)
    assert set(parts_of(module)) == set(module.modules())


def test_layers_that_learn_are_not_written_over():
    """Within a plan a network may be called for its gradients, as guidance by a loss does."""
    block = BasicTransformerBlock(16, 2, 8, activation_fn="geglu", cross_attention_dim=8)
    tokens, context = torch.randn(2, 64, 16, requires_grad=True), torch.randn(2, 3, 8)
    block(tokens, encoder_hidden_states=context).square().sum().backward()
    expected, tokens.grad = tokens.grad, None
    plain.transformer_block(block, tokens, 2, context).square().sum().backward()
    assert difference(tokens.grad, expected) <= TOLERANCE
