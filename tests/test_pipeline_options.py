"""Every option of a pipeline does what it does in diffusers, set before a plan or under it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UNetMotionModel,
    UniPCMultistepScheduler,
)
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.attention_processor import (
    AttnProcessor,
    SlicedAttnProcessor,
)
from diffusers.models.resnet import ResnetBlock2D
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from pipelines import (
    HEIGHT,
    PIPELINES,
    PLANS,
    TEXT_WIDTH,
    WIDTH,
    Call,
    Outcome,
    image_to_video,
    pictures,
    text_to_video,
)
from torch import nn

import streamline
from streamline.families.base import Shape
from streamline.families.networks import network_of
from streamline.families.running import run_network

TOLERANCE = 1e-5

SPATIAL = r".*attentions.*(to_q|to_v|to_out\.0|ff\.net\.2)"
MOTION = r".*motion_modules.*(to_q|to_v|to_out\.0)"


def lora(call: Call, targets: str = SPATIAL, name: str = "spatial") -> None:
    """Load random LoRA weights for some layers of the UNet, as from a file."""
    torch.manual_seed(11)
    twin = UNetMotionModel.from_config(call.pipe.unet.config)
    twin.add_adapter(LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    weights = {f"unet.{key}": 3 * value for key, value in get_peft_model_state_dict(twin).items()}
    call.pipe.load_lora_weights(weights, adapter_name=name)


def lora_at_some_scale(call: Call) -> None:
    lora(call)
    call.arguments["cross_attention_kwargs"] = {"scale": 0.4}


def motion_lora(call: Call) -> None:
    lora(call, MOTION, "motion")


def two_loras(call: Call) -> None:
    lora(call)
    lora(call, MOTION, "motion")
    call.pipe.set_adapters(["spatial", "motion"], adapter_weights=[0.7, 0.3])


def fused_lora(call: Call) -> None:
    lora(call)
    call.pipe.fuse_lora()


def scheduler(kind: type, **config) -> Callable[[Call], None]:
    def option(call: Call) -> None:
        call.pipe.scheduler = kind.from_config(call.pipe.scheduler.config, **config)

    return option


def arguments(**changes) -> Callable[[Call], None]:
    return lambda call: call.arguments.update(changes)


def changing_callback(call: Call) -> None:
    def callback(pipe, step, timestep, tensors):
        return {"latents": 0.9 * tensors["latents"] + 0.01 * step}

    call.arguments["callback_on_step_end"] = callback


def ip_adapter(call: Call) -> None:
    """Load a random IP-Adapter, as from a file, and show it a picture."""
    torch.manual_seed(12)
    crosses = [name for name in call.pipe.unet.attn_processors if "motion" not in name and "attn2" in name]
    sizes = [dict(call.pipe.unet.named_modules())[name.removesuffix(".processor")].inner_dim for name in crosses]
    kinds = ("to_k_ip", "to_v_ip")
    weights = {
        "image_proj": {
            "proj.weight": torch.randn(4 * TEXT_WIDTH, 32),
            "proj.bias": torch.randn(4 * TEXT_WIDTH),
            "norm.weight": torch.randn(TEXT_WIDTH),
            "norm.bias": torch.randn(TEXT_WIDTH),
        },
        "ip_adapter": {
            f"{2 * index + 1}.{kind}.weight": torch.randn(size, TEXT_WIDTH)
            for index, size in enumerate(sizes)
            for kind in kinds
        },
    }
    call.pipe.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    call.pipe.set_ip_adapter_scale(0.6)
    call.arguments["ip_adapter_image"] = pictures()[0]


def masked_ip_adapter(call: Call) -> None:
    """Two pictures, each for its own half of the frame."""
    ip_adapter(call)
    halves = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
    halves[0, :, : WIDTH // 2] = halves[1, :, WIDTH // 2 :] = 255
    masks = IPAdapterMaskProcessor().preprocess([Image.fromarray(half) for half in halves], HEIGHT, WIDTH)
    call.arguments["ip_adapter_image"] = [pictures()[:2]]
    call.arguments["cross_attention_kwargs"] = {"ip_adapter_masks": [masks.transpose(0, 1)]}


def free_u(call: Call) -> None:
    call.pipe.enable_freeu(s1=0.6, s2=0.4, b1=1.3, b2=1.4)


def plain_attention(call: Call) -> None:
    call.pipe.unet.set_attn_processor(AttnProcessor())


def sliced_attention(call: Call) -> None:
    call.pipe.unet.set_attn_processor(SlicedAttnProcessor(1))


def fused_projections(call: Call) -> None:
    call.pipe.unet.fuse_qkv_projections()
    call.pipe.vae.fuse_qkv_projections()


def chunked_feed_forward(call: Call) -> None:
    call.pipe.unet.enable_forward_chunking(chunk_size=1)


def feed_forward_in_chunks_of_tokens(call: Call) -> None:
    """Chunks that divide 20 and 6 pixels and 4 frames."""
    call.pipe.unet.enable_forward_chunking(chunk_size=2, dim=1)
    call.arguments["num_frames"] = 4


def channels_last(call: Call) -> None:
    for module in (*call.pipe.unet.modules(), *call.pipe.vae.modules()):
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def hooked(call: Call) -> None:
    """The hooks of enable_model_cpu_offload, which itself wants a GPU; it hooks whole models, and so do we."""
    hook = None
    for network in (call.pipe.unet, call.pipe.vae, call.pipe.vae.decoder):
        _, hook = cpu_offload_with_hook(network, execution_device="cpu", prev_module_hook=hook)
    add_hook_to_module(call.pipe.unet, AlignDevicesHook(io_same_device=True), append=True)


def split_inference(call: Call) -> None:
    call.pipe.enable_free_noise(context_length=4, context_stride=2)
    call.pipe.enable_free_noise_split_inference(spatial_split_size=7, temporal_split_size=2)


def torch_hooks(call: Call) -> None:
    """Hooks on the network, and on a part that is called."""
    resnet = next(module for module in call.pipe.unet.modules() if isinstance(module, ResnetBlock2D))
    resnet.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    call.pipe.unet.register_forward_pre_hook(lambda module, inputs: (0.9 * inputs[0], *inputs[1:]))


# An option that leaves the video as it is says so: the others must change it, or their test shows nothing.
SAME_VIDEO = True
ANIMATEDIFF = {
    "lora": (lora,),
    "lora at some scale": (lora_at_some_scale,),
    "motion lora": (motion_lora,),
    "two loras": (two_loras,),
    "fused lora": (fused_lora,),
    "euler": (scheduler(EulerDiscreteScheduler),),
    "dpm++": (scheduler(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++"),),
    "lcm": (scheduler(LCMScheduler),),
    "unipc": (scheduler(UniPCMultistepScheduler),),
    "callback": (changing_callback,),
    "ip-adapter": (ip_adapter,),
    "masked ip-adapter": (masked_ip_adapter,),
    "freeu": (free_u,),
    "another size": (arguments(height=24, width=56),),
    "two prompts": (arguments(prompt=["a cat", "a dog"], negative_prompt=["a fish", "bad"]),),
    "two videos": (arguments(num_videos_per_prompt=2), SAME_VIDEO),  # diffusers makes one, whatever is asked for
    "one frame": (arguments(num_frames=1),),
    "no guidance": (arguments(guidance_scale=1.0),),
    "decoding in chunks": (arguments(decode_chunk_size=2), SAME_VIDEO),
    "vae slicing": (lambda call: call.pipe.vae.enable_slicing(), SAME_VIDEO),
    "vae tiling": (lambda call: call.pipe.vae.enable_tiling(),),
    "plain attention": (plain_attention, SAME_VIDEO),
    "sliced attention": (sliced_attention, SAME_VIDEO),
    "fused projections": (fused_projections, SAME_VIDEO),
    "chunked feed-forward": (chunked_feed_forward, SAME_VIDEO),
    "feed-forward in chunks of tokens": (feed_forward_in_chunks_of_tokens,),
    "channels last": (channels_last, SAME_VIDEO),
    "offload hooks": (hooked, SAME_VIDEO),
    "torch hooks": (torch_hooks,),
    "split inference": (split_inference,),
}
SVD = {
    "euler ancestral": (scheduler(EulerAncestralDiscreteScheduler),),
    "callback": (changing_callback,),
    "another size": (arguments(height=24, width=56),),
    "two videos": (arguments(num_videos_per_prompt=2),),
    "two images": (arguments(image=pictures()[:2]),),
    "no guidance": (arguments(max_guidance_scale=1.0),),
    "decoding in chunks": (arguments(decode_chunk_size=2),),
    "plain attention": (plain_attention, SAME_VIDEO),
    "chunked feed-forward": (chunked_feed_forward, SAME_VIDEO),
    "channels last": (channels_last, SAME_VIDEO),
    "offload hooks": (hooked, SAME_VIDEO),
    "torch hooks": (torch_hooks,),
}
OPTIONS = [("animatediff", name, *option) for name, option in ANIMATEDIFF.items()]
OPTIONS += [("svd", name, *option) for name, option in SVD.items()]


@pytest.fixture(scope="module")
def plain():
    """What each pipeline gives without any option."""
    return {name: PIPELINES[name]()() for name in ("animatediff", "svd")}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option[0]}, {option[1]}")
def test_an_option_does_what_it_does_in_diffusers(plain, option, record_property):
    name, _, change, *same_video = option
    untouched = PIPELINES[name]()
    change(untouched)
    expected = untouched()
    assert _alike(expected, plain[name], 1e-4) == bool(same_video)

    call = PIPELINES[name]()
    with streamline.apply(call.pipe, PLANS["groups"]):
        change(call)
        set_under_a_plan = call()
    assert call().same(expected)
    with streamline.apply(call.pipe, PLANS["uneven"]):
        set_before = call()
    assert call().same(expected)
    for result in (set_under_a_plan, set_before):
        record_property("error: latents under options", result.error(expected))
        assert not result.same(expected)
        assert _alike(result, expected, TOLERANCE)


@pytest.mark.parametrize("output_type", ["latent", "np", "pt", "pil"])
@pytest.mark.parametrize("build", [image_to_video, text_to_video])
def test_every_kind_of_output(build, output_type):
    call = build()
    expected = call(output_type=output_type).frames
    with streamline.apply(call.pipe, PLANS["groups"]):
        result = call(output_type=output_type).frames
    assert type(result) is type(expected)
    result, expected = _numbers(result), _numbers(expected)
    assert result.shape == expected.shape
    difference = np.abs(result - expected).max()
    assert difference <= (1 if output_type == "pil" else TOLERANCE * np.abs(expected).max())


ORDERS = [
    ("hook", "apply", "unhook", "restore"),
    ("hook", "apply", "restore", "unhook"),
    ("hook", "apply", "unhook", "hook", "restore", "unhook"),
    ("apply", "hook", "unhook", "restore"),
    ("apply", "hook", "restore", "unhook"),
    ("apply", "hook", "unhook", "hook", "unhook", "restore"),
    ("hook", "unhook", "apply", "restore"),
]


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_hooks_of_accelerate_come_and_go_in_any_order(order):
    """As enable_model_cpu_offload does, which takes them off and adds them again after every video."""
    call = image_to_video()
    call.arguments["num_inference_steps"] = 2
    unet, plan = call.pipe.unet, PLANS["groups"]
    expected = call()
    with streamline.apply(call.pipe, plan):
        streamlined = call()
    applied, hook = None, None
    for action in order:
        if action == "apply":
            applied = streamline.apply(call.pipe, plan)
        elif action == "restore":
            applied = applied.restore()
        elif action == "hook":
            hook = _Calls()
            add_hook_to_module(unet, hook)
        else:
            remove_hook_from_module(unet, recurse=True)
            hook = None
        assert call().same(expected if applied is None else streamlined)
        assert hook is None or hook.seen == 2
        if hook is not None:
            hook.seen = 0
    assert unet.__dict__.get("forward", unet.forward) == type(unet).forward.__get__(unet)
    assert "_old_forward" not in unet.__dict__


@pytest.mark.gpu
@pytest.mark.parametrize("build", [image_to_video, text_to_video])
def test_models_are_offloaded_from_a_gpu_as_ever(build, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    untouched, call = build(), build()
    untouched.pipe.enable_model_cpu_offload()
    expected = untouched()
    with streamline.apply(call.pipe, PLANS["groups"]):
        call.pipe.enable_model_cpu_offload()
        results = [call(), call()]
    with streamline.apply(call.pipe, PLANS["uneven"]):
        results.append(call())
    for result in results:
        assert call.pipe.unet.device.type == "cpu"
        assert not result.same(expected)
        assert _alike(result, expected, 10 * TOLERANCE)


class _Calls(ModelHook):
    """Counts how often the network is called."""

    seen = 0

    def pre_forward(self, module, *args, **kwargs):
        self.seen += 1
        return args, kwargs


def test_a_residual_for_all_frames_counts_for_each():
    """A control network may add one picture's residuals to every frame."""
    unet = text_to_video().pipe.unet
    torch.manual_seed(13)
    arguments = network_of(unet).example(unet, Shape(2, 3, 5, 4))
    arguments["sample"] = torch.randn_like(arguments["sample"])
    skips = [torch.randn(1, 16, 5, 4), torch.randn(6, 16, 5, 4), torch.randn(1, 16, 3, 2), torch.randn(1, 32, 3, 2)]
    arguments["down_block_additional_residuals"] = tuple(skips)
    arguments["mid_block_additional_residual"] = torch.randn(1, 32, 3, 2)
    plan = PLANS["uneven"]
    with torch.no_grad():
        expected = unet(**arguments).sample
        result = run_network(unet, plan.denoiser, True, **arguments).sample
    assert (result - expected).abs().max() <= TOLERANCE * expected.abs().max()


def _alike(result: Outcome, expected: Outcome, tolerance: float) -> bool:
    if result.latents.shape != expected.latents.shape or result.frames.shape != expected.frames.shape:
        return False
    frames_differ_by = (result.frames - expected.frames).abs().max()
    return result.error(expected) <= tolerance and frames_differ_by <= max(tolerance, 1 / 255)


def _numbers(frames: object) -> np.ndarray:
    """Whatever a pipeline calls frames, as numbers."""
    if isinstance(frames, list):
        return np.stack([np.stack([np.asarray(frame, dtype=float) for frame in video]) for video in frames])
    return np.asarray(frames, dtype=float)
