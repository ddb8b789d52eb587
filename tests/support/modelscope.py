"""ModelScope's text-to-video (TextToVideoSDPipeline), a family that streamline does not know: all of it is here.

Its decoder is AutoencoderKL's, which streamline lowers already. Its UNet, UNet3DConditionModel, is lowered below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets import unet_3d_blocks as original
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn

from streamline.applying import apply as applying
from streamline.errors import UnsupportedError
from streamline.families import networks
from streamline.families.layers import arguments, blocks, plain
from streamline.program.conditions import Conditions
from streamline.program.stages import Builder, Program

CLIP_TOKENS = 77  # the length diffusers pads a prompt to


def register() -> None:
    """Make the family known; doing it again changes nothing."""
    networks.FAMILIES[UNet3DConditionModel] = networks.Family(lower, forward, example)
    for module in (networks, applying):
        module.PIPELINES = tuple(dict.fromkeys((*module.PIPELINES, TextToVideoSDPipeline)))


def lower(unet: UNet3DConditionModel) -> Program:
    """Return its program: resnets and spatial transformers over frames, temporal layers over pixels."""
    p = Builder(inputs=("sample",), block="in")
    x = p.frames("in", lambda c, x: unet.conv_in(x), "sample", of=[unet.conv_in])
    x = _temporal_transformer(p, "in.motion", unet.transformer_in, x)
    skips = [x]
    for index, block in enumerate(unet.down_blocks):
        blocks.require_open(block, original.CrossAttnDownBlock3D, original.DownBlock3D)
        p.block = f"down.{index}"
        for layer in range(len(block.resnets)):
            x = _transformers(p, block, layer, _resnets(p, block, layer, x))
            skips.append(x)
        if block.downsamplers is not None:
            x = blocks.downsample(p, f"{p.block}.downsample", block.downsamplers, x)
            skips.append(x)

    p.block, block = "mid", unet.mid_block
    blocks.require_open(block, original.UNetMidBlock3DCrossAttn)
    x = _resnets(p, block, 0, x)
    for layer in range(len(block.attentions)):
        x = _resnets(p, block, layer + 1, _transformers(p, block, layer, x))

    for index, block in enumerate(unet.up_blocks):
        blocks.require_open(block, original.CrossAttnUpBlock3D, original.UpBlock3D)
        p.block = f"up.{index}"
        for layer in range(len(block.resnets)):
            x = _join(p, f"{p.block}.join.{layer}", block, x, skips.pop())
            x = _transformers(p, block, layer, _resnets(p, block, layer, x))
        next_skip = skips[-1] if skips else None
        x = blocks.upsample(p, f"{p.block}.upsample", block.upsamplers, x, next_skip, nn.Module.__call__)

    p.block = "out"
    return p.build(blocks.project_out(p, unet.conv_norm_out, unet.conv_act, unet.conv_out, x))


def _resnets(p: Builder, block: nn.Module, layer: int, x: str) -> str:
    """A spatial resnet, then a temporal one: four convolutions over frames, whose norms span frames and pixels."""
    blocks.require(block.resnets[layer], ResnetBlock2D)
    hidden = x = blocks.resnet(p, f"{p.block}.resnet.{layer}", block.resnets[layer], x)
    temporal = block.temp_convs[layer]
    blocks.require_open(temporal, TemporalConvLayer)
    for index, step in enumerate((temporal.conv1, temporal.conv2, temporal.conv3, temporal.conv4)):
        blocks.require_open(step, nn.Sequential)
        blocks.require_open(step[0], nn.GroupNorm)

        def run(norm: nn.Module, c: Conditions, hidden: Tensor, *x: Tensor, step: nn.Sequential = step) -> Tensor:
            _, act, *dropouts, conv = step
            hidden = plain.activate(act, norm(blocks.to_video(hidden, c.batch)))
            for dropout in dropouts:
                hidden = dropout(hidden)
            hidden = blocks.to_rows(plain.convolve_frames(conv, hidden))
            return x[0] + hidden if x else hidden

        reads = (hidden, x) if step is temporal.conv4 else (hidden,)
        hidden = p.pixels(f"{p.block}.temporal.{layer}.{index}", run, *reads, norm=step[0], of=step[1:])
    return hidden


def _transformers(p: Builder, block: nn.Module, layer: int, x: str) -> str:
    """A transformer over the pixels of each frame, then one over the frames of each pixel, where a block has them."""
    if not hasattr(block, "attentions"):
        return x
    model = block.attentions[layer]
    blocks.require(model, Transformer2DModel)

    def run(c: Conditions, x: Tensor) -> Tensor:
        text, options = c["encoder_hidden_states"], c["cross_attention_kwargs"]
        return model(x, encoder_hidden_states=text, cross_attention_kwargs=options, return_dict=False)[0]

    x = p.frames(f"{p.block}.attention.{layer}", run, x, of=[model])
    return _temporal_transformer(p, f"{p.block}.motion.{layer}", block.temp_attentions[layer], x)


def _temporal_transformer(p: Builder, name: str, model: TransformerTemporalModel, x: str) -> str:
    """TransformerTemporalModel, opened because its norm spans frames and pixels; its blocks are called."""
    blocks.require_open(model, TransformerTemporalModel)
    blocks.require_open(model.norm, nn.GroupNorm)

    def run(norm: nn.Module, c: Conditions, x: Tensor) -> Tensor:
        video = blocks.to_video(x, c.batch)
        batch, channels, frames, pixels, _ = video.shape
        tokens = model.proj_in(norm(video).permute(0, 3, 4, 2, 1).reshape(batch * pixels, frames, channels))
        options = dict.fromkeys(("encoder_hidden_states", "timestep", "class_labels"))
        for block in model.transformer_blocks:
            tokens = block(tokens, cross_attention_kwargs=c["cross_attention_kwargs"], **options)
        tokens = model.proj_out(tokens).unflatten(0, (batch, pixels))
        return x + tokens.permute(0, 2, 3, 1).reshape(x.shape)

    return p.pixels(name, run, x, norm=model.norm, of=(model.proj_in, *model.transformer_blocks, model.proj_out))


def _join(p: Builder, name: str, block: nn.Module, x: str, skip: str) -> str:
    """Concatenate a skip connection, and do what FreeU does to both."""

    def run(c: Conditions, x: Tensor, skip: Tensor) -> Tensor:
        freeu = {key: getattr(block, key, None) for key in ("s1", "s2", "b1", "b2")}
        if all(freeu.values()):  # it writes over x, a view of a value that is not ours alone
            x, skip = apply_freeu(block.resolution_idx, x.clone(), skip, **freeu)
        return torch.cat([x, skip], dim=1)

    return p.frames(name, run, x, skip)


def forward(
    unet: UNet3DConditionModel,
    execute: Callable[[dict[str, Tensor], Conditions], Tensor],
    sample: Tensor,
    timestep: Tensor | float | int,
    encoder_hidden_states: Tensor,
    class_labels: Tensor | None = None,
    timestep_cond: Tensor | None = None,
    attention_mask: Tensor | None = None,
    cross_attention_kwargs: dict[str, Any] | None = None,
    down_block_additional_residuals: tuple[Tensor, ...] | None = None,
    mid_block_additional_residual: Tensor | None = None,
    return_dict: bool = True,
) -> UNet3DConditionOutput | tuple[Tensor]:
    """UNet3DConditionModel.forward, its blocks run by `execute`.

    sample: (batch, channels, frames, height, width) of latents. encoder_hidden_states: (batch, tokens, channels).
    Returns (batch, channels, frames, height, width). Raises UnsupportedError for what the pipeline never gives.
    """
    residuals = (down_block_additional_residuals, mid_block_additional_residual)
    if any(given is not None for given in (class_labels, attention_mask, *residuals)):
        raise UnsupportedError(
            "Class labels, an attention_mask and a control network's residuals are not supported by the streamlined "
            "UNet3DConditionModel; leave them out."
        )
    batch, _, frames = sample.shape[:3]
    time = unet.time_proj(arguments.as_timesteps(timestep, batch, sample.device)).to(unet.dtype)
    emb = unet.time_embedding(time, timestep_cond)
    given = {"emb": emb, "encoder_hidden_states": encoder_hidden_states}
    rows = {name: value.repeat_interleave(frames, dim=0) for name, value in given.items()}
    resize = arguments.needs_resize(sample, unet.num_upsamplers)
    shared = {"cross_attention_kwargs": cross_attention_kwargs, "resize": resize}
    values = {"sample": sample.transpose(1, 2).flatten(0, 1)}
    output = execute(values, Conditions(batch, frames, rows, shared)).unflatten(0, (batch, frames)).transpose(1, 2)
    return UNet3DConditionOutput(sample=output) if return_dict else (output,)


def example(unet: UNet3DConditionModel, batch: int, frames: int, height: int, width: int) -> dict[str, Any]:
    """Return arguments of the right shapes for one call; height and width in latent pixels."""
    return {
        "sample": torch.zeros(batch, unet.config.in_channels, frames, height, width),
        "timestep": torch.tensor(0),
        "encoder_hidden_states": torch.zeros(batch, CLIP_TOKENS, unet.config.cross_attention_dim),
    }
