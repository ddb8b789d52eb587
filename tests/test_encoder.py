"""The encoder of pictures as a program: the same latents, in less memory, left alone where it is not as it was made."""

import random

import pytest
import torch
import untrained
from diffusers import AutoencoderKL, StableVideoDiffusionPipeline
from networks import image_autoencoder, random_plan
from PIL import Image

from streamline import Hooks, Job, LiveTensors, Plan, Slicing, apply, run
from streamline.families.base import Shape
from streamline.families.networks import network_of
from streamline.families.running import run_network
from streamline.program.weights import weights_of
from streamline.weights.offloading import GroupOffload


def encoder_of(seed):
    """A random small one in evaluation mode, and pictures for it."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    levels = rng.randint(1, 3)
    network = image_autoencoder(rng, levels).encoder
    return network.eval(), torch.randn(rng.choice([1, 3]), 3, rng.randint(16, 40), rng.randint(16, 40))


@pytest.mark.parametrize("seed", range(12))
def test_a_random_plan_gives_the_original_latents(seed, record_property):
    network, pictures = encoder_of(seed)
    weights = GroupOffload(torch.device("cpu")) if seed % 2 else None
    with torch.no_grad():
        expected = network(pictures)
        result = run_network(network, random_plan(seed).denoiser, False, pictures, weights=weights)
    error = ((result - expected).abs().max() / expected.abs().max()).item()
    record_property("error: image_encoder, relative, float32", error)
    assert error <= 1e-5


def test_it_takes_less_memory():
    network = AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
    ).encoder
    arguments = network_of(network).example(network, Shape(1, 1, 24, 24))
    peaks = []
    for run_it in (network, lambda sample: run_network(network, Plan().decoder, False, sample)):
        with torch.no_grad(), LiveTensors([network]) as memory:
            run_it(**arguments)
        peaks.append(memory.peak_bytes)
    assert peaks[1] < 0.8 * peaks[0]


def test_a_pipeline_encodes_by_it_and_has_its_own_back():
    pipe = untrained.svd()
    pipe.set_progress_bar_config(disable=True)
    encoder, picture = pipe.vae.encoder, torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        expected = pipe.vae.encode(picture).latent_dist.mode()
        asked = []
        with apply(pipe, Plan(), Hooks(before_slice=lambda: asked.append(1))):
            result = pipe.vae.encode(picture).latent_dist.mode()
    assert asked and "forward" not in vars(encoder)
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_an_encoder_that_somebody_changed_is_left_alone():
    pipe = untrained.svd()
    pipe.set_progress_bar_config(disable=True)
    job = Job.for_model(pipe, num_frames=2, num_inference_steps=1, height=32, width=32)
    image, called = Image.radial_gradient("L").convert("RGB"), []
    assert isinstance(pipe, StableVideoDiffusionPipeline)
    pipe.vae.encoder.mid_block.register_forward_hook(lambda *_: called.append(1))
    expected = run(pipe, job, None, image)
    result = run(pipe, job, Plan(Slicing(2, 2), residency="group offload"), image)
    assert len(called) == 2
    assert max(abs(a - b) for a, b in zip(pixels(result), pixels(expected), strict=True)) <= 1
    assert all(tensor.device.type == "cpu" for tensor in weights_of([pipe.vae]))


def pixels(result):
    return [value for frame in result.frames for value in frame.convert("RGB").tobytes()]
