"""Random small networks of the true classes, with inputs to match, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
)
from torch import Tensor, nn

from streamline import Plan, Slicing


@dataclass(frozen=True)
class Case:
    """A network, the arguments of one call, and how to read the tensor out of what it returns."""

    network: nn.Module
    arguments: dict
    read: Callable[[object], Tensor]

    def original(self) -> Tensor:
        with torch.no_grad():
            return self.read(self.network(**self.arguments))

    def double(self) -> Case:
        """The same in float64."""
        arguments = {
            name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in self.arguments.items()
        }
        return Case(self.network.double(), arguments, self.read)


def spatio_temporal_unet(seed: int) -> Case:
    """SVD's UNet: normalisation has 32 groups, so channels come in multiples of 32."""
    rng, levels, batch, frames, height, width = _draw(seed)
    widths = tuple(rng.choice([32, 64]) for _ in range(levels))
    cross = rng.choice([16, 32])
    attends = [True] + [rng.random() < 0.6 for _ in range(levels - 1)]
    network = UNetSpatioTemporalConditionModel(
        in_channels=8,
        block_out_channels=widths,
        down_block_types=tuple(f"{'CrossAttn' * has}DownBlockSpatioTemporal" for has in attends),
        up_block_types=tuple(f"{'CrossAttn' * has}UpBlockSpatioTemporal" for has in reversed(attends)),
        layers_per_block=rng.choice([1, 2]),
        transformer_layers_per_block=rng.choice([1, 2]),
        num_attention_heads=tuple(rng.choice([1, 2, 4]) for _ in widths),
        cross_attention_dim=cross,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    )
    arguments = {
        "sample": torch.randn(batch, frames, 8, height, width),
        "timestep": torch.tensor(rng.uniform(-2, 2)),
        "encoder_hidden_states": torch.randn(batch, rng.choice([1, 3]), cross),
        "added_time_ids": torch.rand(batch, 3),
    }
    return Case(_shake(network), arguments, lambda output: output.sample)


def motion_unet(seed: int) -> Case:
    """AnimateDiff's UNet, with or without motion in its middle block."""
    rng, levels, batch, frames, height, width = _draw(seed)
    widths = tuple(rng.choice([16, 32]) for _ in range(levels))
    attends = [True] + [rng.random() < 0.6 for _ in range(levels - 1)]
    network = UNetMotionModel(
        block_out_channels=widths,
        down_block_types=tuple(f"{'CrossAttn' * has}DownBlockMotion" for has in attends),
        up_block_types=tuple(f"{'CrossAttn' * has}UpBlockMotion" for has in reversed(attends)),
        layers_per_block=rng.choice([1, 2]),
        cross_attention_dim=16,
        norm_num_groups=rng.choice([4, 8]),
        num_attention_heads=rng.choice([1, 2, 4]),
        motion_num_attention_heads=rng.choice([1, 2]),
        use_motion_mid_block=rng.random() < 0.5,
        use_linear_projection=rng.random() < 0.5,
    )
    arguments = {
        "sample": torch.randn(batch, 4, frames, height, width),
        "timestep": torch.tensor(rng.randrange(1000)),
        "encoder_hidden_states": torch.randn(batch * frames, rng.choice([1, 5]), 16),
    }
    return Case(_shake(network), arguments, lambda output: output.sample)


def temporal_decoder(seed: int) -> Case:
    """The decoder of AutoencoderKLTemporalDecoder."""
    rng, levels, batch, frames, height, width = _draw(seed)
    network = AutoencoderKLTemporalDecoder(
        block_out_channels=tuple(rng.choice([32, 64]) for _ in range(levels)),
        down_block_types=("DownEncoderBlock2D",) * levels,
        layers_per_block=rng.choice([1, 2]),
    ).decoder
    arguments = {
        "sample": torch.randn(batch * frames, 4, height, width),
        "image_only_indicator": torch.zeros(batch, frames),
        "num_frames": frames,
    }
    return Case(_shake(network), arguments, lambda output: output)


def image_autoencoder(rng: random.Random, levels: int) -> AutoencoderKL:
    """A random small one."""
    return AutoencoderKL(
        block_out_channels=tuple(rng.choice([16, 32]) for _ in range(levels)),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=rng.choice([1, 2]),
        norm_num_groups=rng.choice([4, 8]),
        mid_block_add_attention=rng.random() < 0.8,
    )


def image_decoder(seed: int) -> Case:
    """The decoder of AutoencoderKL."""
    rng, levels, batch, frames, height, width = _draw(seed)
    network = image_autoencoder(rng, levels).decoder
    return Case(_shake(network), {"sample": torch.randn(batch * frames, 4, height, width)}, lambda output: output)


KINDS = {
    "spatio_temporal_unet": spatio_temporal_unet,
    "motion_unet": motion_unet,
    "temporal_decoder": temporal_decoder,
    "image_decoder": image_decoder,
}


def random_plan(seed: int) -> Plan:
    """Uneven counts that differ by block, group limits, either way of guidance."""
    rng = random.Random(seed)

    def slicing() -> Slicing:
        return Slicing(rng.randint(1, 9), rng.randint(1, 9), rng.choice([None, None, 1, 2, 3]))

    blocks = ["*", "in", "down.0", "mid", "up.0", "up.1", "out"]
    named = {block: slicing() for block in blocks if rng.random() < 0.6}
    ending = {block: one for block, one in named.items() if block != "down.0"}  # a decoder has no way down
    return Plan(denoiser=named, decoder=ending, guidance=rng.choice(["batched", "sequential"]))


def _draw(seed: int) -> tuple[random.Random, int, int, int, int, int]:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    levels, batch, frames = rng.randint(1, 3), rng.randint(1, 2), rng.choice([1, 2, 3, 5, 8, 14, 25])
    # No smaller: a norm over one or two values amplifies rounding beyond any tolerance, the original's too.
    smallest = 2**levels + 1
    largest = smallest + (6 if frames < 10 else 2)
    return rng, levels, batch, frames, rng.randint(smallest, largest), rng.randint(smallest, largest)


def _shake(network: nn.Module) -> nn.Module:
    """Move every norm and blend factor off its tidy starting value, where errors could hide."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim <= 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    return network.eval()
