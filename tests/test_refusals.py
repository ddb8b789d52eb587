"""What cannot be run exactly is refused by name, before a plan is applied or at the next call, never passed over."""

from __future__ import annotations

import pytest
import torch
import untrained
from accelerate import cpu_offload
from diffusers import AnimateDiffPAGPipeline, AutoencoderTiny, StableDiffusionPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor2_0, PAGCFGIdentitySelfAttnProcessor2_0
from pipelines import PLANS, Call, image_to_video, image_unet, text_to_video
from torch import nn

import streamline
from streamline import UnsupportedError
from streamline.families.base import Shape
from streamline.families.networks import network_of


class CrossFrameProcessor(AttnProcessor2_0):
    """Lets every frame attend to the first one, as some image models are made to."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        context = hidden_states[:1].expand_as(hidden_states) if encoder_hidden_states is None else encoder_hidden_states
        return super().__call__(attn, hidden_states, context, **kwargs)


def sequentially_offloaded(call: Call) -> None:
    cpu_offload(call.pipe.unet, execution_device=torch.device("cpu"))


def offloaded_in_groups(call: Call) -> None:
    cpu = torch.device("cpu")
    apply_group_offloading(call.pipe.unet, onload_device=cpu, offload_type="block_level", num_blocks_per_group=1)


def cast_layer_by_layer(call: Call) -> None:
    call.pipe.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def attending_across_frames(call: Call) -> None:
    call.pipe.unet.set_attn_processor(CrossFrameProcessor())


def perturbed_attention(call: Call) -> None:
    call.pipe.unet.set_attn_processor(PAGCFGIdentitySelfAttnProcessor2_0())


def hook_on_a_block(call: Call) -> None:
    call.pipe.unet.down_blocks[0].register_forward_hook(lambda module, inputs, output: output)


def replaced_forward_of_a_block(call: Call) -> None:
    block = call.pipe.vae.decoder.mid_block
    block.forward = lambda *args, **kwargs: type(block).forward(block, *args, **kwargs)


def compiled_block(call: Call) -> None:
    call.pipe.unet.mid_block.compile(backend="eager")


def chunks_of_rows(call: Call) -> None:
    call.pipe.unet.enable_forward_chunking(chunk_size=2, dim=0)


REFUSED = {
    sequentially_offloaded: "inside UNet.* .sequential CPU offload, .*. are not supported; enable_model_cpu_offload is",
    offloaded_in_groups: "hook 'group_offloading' on UNet.* is not supported; remove it, or use enable_model_cpu",
    attending_across_frames: "processor CrossFrameProcessor is not known to treat frames and pixels apart",
    perturbed_attention: "processor PAGCFGIdentitySelfAttnProcessor2_0 is not known to treat frames",
    hook_on_a_block: "A CrossAttnDownBlock.* is run part by part, so hooks on it .* would have no effect",
    replaced_forward_of_a_block: "The forward of a .*MidBlock.* was replaced by another, .* take that off first",
    compiled_block: "A UNetMidBlock.* is run part by part, .* compiling it would have no effect",
    chunks_of_rows: "chunks of 2 along dimension 0 do not divide every slice; use chunks of 1, or dim=1",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
@pytest.mark.parametrize("build", [image_to_video, text_to_video])
def test_what_cannot_be_run_exactly_is_refused_by_name(build, change):
    """Before a plan is applied, and from the next call on if it comes later; never silently passed over."""
    sentence = REFUSED[change]
    early, late = build(), build()
    with streamline.apply(late.pipe, PLANS["groups"]):
        change(late)
        with pytest.raises(UnsupportedError, match=sentence):
            late()
    change(early)
    networks = (early.pipe.unet, early.pipe.vae.decoder)
    before = [dict(vars(network)) for network in networks]
    with pytest.raises(UnsupportedError, match=sentence):
        streamline.apply(early.pipe, PLANS["groups"])
    assert [dict(vars(network)) for network in networks] == before


@pytest.mark.parametrize("change", [sequentially_offloaded, offloaded_in_groups, cast_layer_by_layer])
@pytest.mark.parametrize("build", [image_to_video, text_to_video])
def test_a_hook_refused_under_a_plan_works_once_that_is_taken_off(build, change):
    """Some hooks keep the forward they found, which was the plan's."""
    untouched, call = build(), build()
    with streamline.apply(call.pipe, PLANS["groups"]):
        change(call)
    change(untouched)
    assert call().same(untouched())


def whole_network_compiled(call: Call) -> None:
    call.pipe.unet.compile(backend="eager")


def compiled_copy(call: Call) -> None:
    call.pipe.unet = torch.compile(call.pipe.unet, backend="eager")


def replaced_forward(call: Call) -> None:
    forward = call.pipe.unet.forward
    call.pipe.unet.forward = lambda *args, **kwargs: forward(*args, **kwargs)


def foreign_autoencoder(call: Call) -> None:
    call.pipe.vae = AutoencoderTiny()


def autoencoder_without_a_decoder(call: Call) -> None:
    call.pipe.vae = nn.Identity()


def image_unet_instead(call: Call) -> None:
    call.pipe.unet = image_unet()


REFUSED_BEFOREHAND = {
    whole_network_compiled: "A network compiled as a whole is not supported",
    compiled_copy: "A network compiled as a whole is not supported",
    replaced_forward: "The forward of this UNet.* was replaced by another; take that off first",
    foreign_autoencoder: "DecoderTiny cannot be streamlined; these can: .*UNetSpatio.*, TemporalDecoder",
    autoencoder_without_a_decoder: "Identity cannot be streamlined; these can: ",
    image_unet_instead: "UNet2DConditionModel cannot be streamlined; these can: ",
}


@pytest.mark.parametrize("change", REFUSED_BEFOREHAND, ids=lambda change: change.__name__)
@pytest.mark.parametrize("build", [image_to_video, text_to_video])
def test_foreign_networks_are_refused_by_name(build, change):
    call = build()
    change(call)
    before = [dict(vars(network)) for network in (call.pipe.unet, call.pipe.vae)]
    with pytest.raises(UnsupportedError, match=REFUSED_BEFOREHAND[change]):
        streamline.apply(call.pipe, PLANS["groups"])
    assert [dict(vars(network)) for network in (call.pipe.unet, call.pipe.vae)] == before


@pytest.mark.parametrize("kind", [StableDiffusionPipeline, AnimateDiffPAGPipeline])
def test_other_pipelines_are_refused_by_name(kind):
    parts = text_to_video().pipe.components
    pipe = untrained.image_model() if kind is StableDiffusionPipeline else kind(**parts)
    with pytest.raises(UnsupportedError, match=f"{kind.__name__} cannot be streamlined; these can: .*StableVideo"):
        streamline.apply(pipe, PLANS["groups"])


def test_arguments_that_no_plan_can_follow_are_refused_by_name():
    call = text_to_video()
    arguments = network_of(call.pipe.unet).example(call.pipe.unet, Shape(1, 2, 4, 4))
    with streamline.apply(call.pipe, PLANS["groups"]):
        with pytest.raises(UnsupportedError, match=r"attention_mask .* is not supported; leave it out"):
            call.pipe.unet(**arguments, attention_mask=torch.ones(1, 77))
        with pytest.raises(UnsupportedError, match=r"spatial norms \(latent_embeds\) is not supported"):
            call.pipe.vae.decoder(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4))
