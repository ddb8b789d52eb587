"""A family that comes from outside, of one module, is held to what those that ship are held to."""

import random
from types import SimpleNamespace

import networks
import pytest
import test_by_rows
import test_cost
import test_parity
import torch
import untrained
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from networks import Case
from pipelines import FRAMES, HEIGHT, PLANS, STEPS, TEXT_WIDTH, WIDTH, WIDTHS, Outcome, image_vae
from support import modelscope
from torch import Tensor, nn

import streamline
from streamline import Plan, PlanError, Rehash, Slicing, UnsupportedError
from streamline.families.layers.cache_points import CUTS, find_cut
from streamline.families.running import run_network

LATENTS_TOLERANCE = 1e-5
FRAMES_TOLERANCE = 1 / 255


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """The family is known, and random networks of it are drawn as those of the others are."""
    modelscope.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.KINDS, "modelscope", modelscope_unet)
        yield


def modelscope_unet(seed: int) -> Case:
    """UNet3DConditionModel, its text of any length, at sizes that need not halve evenly."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    levels, batch, frames = rng.randint(1, 3), rng.randint(1, 2), rng.randint(1, 12)
    widths = tuple(rng.choice([16, 32, 48]) for _ in range(levels))
    attends = [True] + [rng.random() < 0.6 for _ in range(levels - 1)]
    condition = rng.choice([None, 8])
    network = UNet3DConditionModel(
        block_out_channels=widths,
        down_block_types=tuple(f"{'CrossAttn' * has}DownBlock3D" for has in attends),
        up_block_types=tuple(f"{'CrossAttn' * has}UpBlock3D" for has in reversed(attends)),
        layers_per_block=rng.choice([1, 2]),
        downsample_padding=rng.choice([0, 1]),
        mid_block_scale_factor=rng.choice([1, 1.5]),
        act_fn=rng.choice(["silu", "gelu"]),
        norm_num_groups=rng.choice([4, 8]),
        cross_attention_dim=16,
        attention_head_dim=rng.choice([1, 2, 4]),
        time_cond_proj_dim=condition,
    )
    smallest = 2**levels + 1
    height, width = (rng.randint(smallest, smallest + 5) for _ in "hw")
    arguments = {
        "sample": torch.randn(batch, 4, frames, height, width),
        "timestep": rng.choice([rng.randrange(1000), torch.tensor(rng.randrange(1000))]),
        "encoder_hidden_states": torch.randn(batch, rng.choice([1, 5]), 16),
        "timestep_cond": None if condition is None else torch.randn(batch, condition),
    }
    return Case(shaken(network), arguments, lambda output: output.sample)


def shaken(network: nn.Module) -> nn.Module:
    """Move norms and the last temporal convolutions off their tidy starting values, where errors could hide."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim <= 1 or not parameter.any():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("seed", range(30))
def test_a_random_plan_gives_the_original_result(seed, record_property):
    test_parity.test_a_random_plan_gives_the_original_result("modelscope", seed, record_property)


@pytest.mark.parametrize("seed", range(200, 206))
def test_what_differs_is_rounding(seed, record_property):
    test_parity.test_what_differs_is_rounding("modelscope", seed, record_property)


@pytest.mark.parametrize("seed", range(100, 103))
def test_a_stage_keeps_what_it_changes_within_its_slice(seed):
    test_parity.test_a_stage_keeps_what_it_changes_within_its_slice("modelscope", seed)


@pytest.mark.parametrize("seed", range(12))
def test_keeping_by_rows_gives_the_original_result(seed, record_property):
    test_by_rows.test_keeping_by_rows_gives_the_original_result("modelscope", seed, record_property)


@pytest.mark.parametrize("seed", range(6))
def test_the_composed_peak_is_the_measured_one(seed, record_property):
    test_cost.test_the_composed_peak_is_the_measured_one("modelscope", seed, record_property)
    test_by_rows.test_the_composed_peak_is_the_measured_one("modelscope", seed, record_property)
