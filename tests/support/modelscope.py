"""ModelScope's text-to-video (TextToVideoSDPipeline), a family that streamline does not know: all of it is here.

Its decoder is AutoencoderKL's, which streamline lowers already. Its UNet, UNet3DConditionModel, is lowered below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline, TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets import unet_3d_blocks as original
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from PIL import Image
from torch import Tensor, nn

from streamline import Family, Field, Job, Model, UnsupportedError, register_family
from streamline.families.base import Called, Network, Phase, Shape
from streamline.families.layers import arguments, blocks, image_decoder, latent_colours, plain
from streamline.families.layers.cache_points import unet_cache_points
from streamline.families.layers.held import Sizes
from streamline.families.subject import Subject
from streamline.program.conditions import Conditions
from streamline.program.stages import Builder, Program

WIDTHS, LEVELS = (320, 640, 1280, 1280), (128, 256, 512, 512)
TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CONFIGS = {  # damo-vilab/text-to-video-ms-1.7b
    "unet": {"_class_name": "UNet3DConditionModel", "block_out_channels": WIDTHS, "cross_attention_dim": 1024},
    "vae": {"_class_name": "AutoencoderKL", "block_out_channels": LEVELS, "layers_per_block": 2}
    | {f"{way}_block_types": (f"{kind}Block2D",) * 4 for way, kind in (("down", "DownEncoder"), ("up", "UpDecoder"))},
    "text_encoder": {"_class_name": "CLIPTextModel", "hidden_act": "gelu", **TEXT},
}


class ModelScope(Family):
    """TextToVideoSDPipeline: guidance in one batch, all frames decoded at once, an older callback."""

    name = "modelscope"
    pipelines = (TextToVideoSDPipeline,)
    fields = (Field("eta", float, 0.0, most=1, label="Eta", option="--eta", help="noise that DDIM adds again (0)"),)
    models = (
        Model(
            "modelscope",
            "text-to-video",
            "damo-vilab/text-to-video-ms-1.7b",
            "ModelScope, 16 frames of 256x256",
            label="ModelScope",
            job=(("height", 256), ("width", 256), ("num_frames", 16), ("fps", 8)),
            sizes=((256, 256), (448, 256)),
            configs=CONFIGS,
        ),
    )
    working = {"unet": "in the denoiser", "text_encoder": "while the text was encoded"}  # noqa: RUF012
    published_tokens = 77

    def defaults(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        side = (pipe.unet.config.sample_size or 32) * pipe.vae_scale_factor
        return {"height": side, "width": side, "num_frames": 16, "fps": 8, "eta": 0.0}

    def arguments(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None) -> dict[str, Any]:
        return super().arguments(pipe, job, image) | {"output_type": "pil"}

    def call(self, pipe, arguments, generator, step_done):
        """Its callback can return nothing, so latents to go on with are written over its own."""

        def end_step(index: int, timestep: object, latents: Tensor) -> None:
            changed = step_done(index, arguments["num_inference_steps"], latents)
            if changed is not latents:
                latents.copy_(changed)

        return tuple(pipe(**arguments, generator=generator, callback=end_step).frames[0])

    def tokens(self, pipe: DiffusionPipeline) -> int:
        return pipe.tokenizer.model_max_length

    def latent_frames(self, pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
        return latent_colours.frames_of(pipe, latents, channel_axis=1)

    def colours(self, pipe: DiffusionPipeline, frames: Tensor) -> Tensor:
        return latent_colours.colours(pipe.vae, frames, lambda vae, frames: vae.decode(frames).sample)

    def phases(self, subject: Subject, job: Job) -> tuple[Phase, ...]:
        """Return phases with what TextToVideoSDPipeline.__call__ and decode_latents hold."""
        batch, sizes = self.batch(job), Sizes.of(subject, job, self.scale(subject))
        width = subject.configs["unet"]["cross_attention_dim"]
        embeddings = (2 * batch - 1) * subject.tokens * width * sizes.itemsize  # the halves, and both together
        model_input = batch * sizes.latents if batch > 1 else 0
        # A prediction is held as it came and as guided, and turned for the scheduler, as the latents are.
        loop = embeddings + 2 * sizes.latents + model_input + (batch + 2 if batch > 1 else 2) * sizes.latents
        text = Called("text_encoder", lambda network: {"input_ids": torch.zeros(1, subject.tokens, dtype=torch.long)})
        return (
            Phase("encode text", "call", 0, ("text_encoder",), times=batch, called=text),
            Phase("denoise", "denoise", loop, ("unet",), frames=job.num_frames),
            Phase("decode", "decode", loop + 3 * sizes.latents, ("vae",), frames=job.num_frames),
            Phase("export", "export", sizes.export(loop), ("vae",)),
        )


def register() -> None:
    """Make the family known; doing it again changes nothing."""
    register_family(ModelScope())


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
            x = blocks.join(p, f"{p.block}.join.{layer}", block, x, skips.pop())
            x = _transformers(p, block, layer, _resnets(p, block, layer, x))
        next_skip = skips[-1] if skips else None
        x = blocks.upsample(p, f"{p.block}.upsample", block.upsamplers, x, next_skip, nn.Module.__call__)

    p.block = "out"
    output = blocks.project_out(p, unet.conv_norm_out, unet.conv_act, unet.conv_out, x)
    return p.build(output, unet_cache_points(p.stages))


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


def example(unet: UNet3DConditionModel, shape: Shape) -> dict[str, Any]:
    """Return arguments of the right shapes for one call."""
    return {
        "sample": torch.zeros(shape.batch, unet.config.in_channels, shape.frames, shape.height, shape.width),
        "timestep": torch.tensor(0),
        "encoder_hidden_states": torch.zeros(shape.batch, shape.tokens, unet.config.cross_attention_dim),
    }


ModelScope.networks = (
    Network(UNet3DConditionModel, lower, forward, example),
    Network(Decoder, image_decoder.lower, image_decoder.forward, image_decoder.example),
)
