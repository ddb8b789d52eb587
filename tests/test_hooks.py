"""What looks into a network from outside sees under a plan what it sees in diffusers, or is refused."""

import copy

import pytest
import torch
import untrained
from diffusers import UNetMotionModel
from networks import KINDS, Case
from torch.nn.modules.module import register_module_forward_pre_hook

import streamline
from streamline import Plan, Slicing, UnsupportedError
from streamline.families.running import run_network


def run(case, plan):
    with torch.no_grad():
        return case.read(run_network(case.network, plan.denoiser, plan.guidance == "sequential", **case.arguments))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 4, 6])
def test_parts_are_called_as_diffusers_calls_them(kind, seed):
    """By position or by name: a pre-hook reads its module's positional arguments."""
    case = KINDS[kind](seed)
    names = {module: name for name, module in case.network.named_modules()}

    def positional_arguments(call):
        seen = {}
        handle = register_module_forward_pre_hook(lambda module, args: seen.update({names[module]: len(args)}))
        try:
            call()
        finally:
            handle.remove()
        return seen

    original = positional_arguments(case.original)
    under_plan = positional_arguments(lambda: run(case, Plan.uniform(2)))
    assert len(under_plan) > 10
    assert under_plan == {name: original[name] for name in under_plan}


def network_without_attention_below() -> tuple[UNetMotionModel, dict]:
    """A resnet, then at once a motion module: what a part returns is what the next pixel stage reads."""
    torch.manual_seed(0)
    network = UNetMotionModel(
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        layers_per_block=2,
        cross_attention_dim=16,
        norm_num_groups=4,
        num_attention_heads=2,
        motion_num_attention_heads=2,
    ).eval()
    sample, text = torch.randn(1, 4, 5, 8, 8), torch.randn(5, 3, 16)
    return network, {"sample": sample, "timestep": torch.tensor(7), "encoder_hidden_states": text}


@pytest.mark.parametrize("slicing", [Slicing(1, 4), Slicing(3, 4), Slicing(3, 1), Slicing(2, 2, 1)])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_part_that_returns_its_input_is_not_written_over(slicing, layer):
    """A hook that skips a resnet makes two values one memory, and one of them is a skip connection."""
    network, arguments = network_without_attention_below()
    resnet = network.down_blocks[1].resnets[layer]
    resnet.register_forward_hook(lambda module, args, kwargs, output: kwargs["input_tensor"], with_kwargs=True)
    case = Case(network, arguments, lambda output: output.sample)
    expected = case.original()
    assert (run(case, Plan(denoiser=slicing)) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("slicing", [Slicing(1, 4), Slicing(3, 4)])
def test_what_a_hook_keeps_stays_as_it_was(slicing):
    """Features taken by a hook are not the executor's to write over."""
    network, arguments = network_without_attention_below()
    kept, copies = [], []

    def keep(module, args, output):
        kept.append(output)
        copies.append(output.clone())

    for resnet in network.down_blocks[1].resnets:
        resnet.register_forward_hook(keep)
    run(Case(network, arguments, lambda output: output.sample), Plan(denoiser=slicing))
    assert kept and all(map(torch.equal, kept, copies))


def test_a_part_with_another_forward_is_refused():
    """A patched forward may look across frames, as reference-only attention does; slices would cut that off."""
    case = KINDS["spatio_temporal_unet"](0)
    block = next(module for module in case.network.modules() if type(module).__name__ == "BasicTransformerBlock")
    own = block.forward
    block.forward = lambda hidden, **kwargs: own(hidden + hidden.mean(dim=0), **kwargs)
    with pytest.raises(UnsupportedError, match="BasicTransformerBlock"):
        run(case, Plan.uniform(2))
    del block.forward
    run(case, Plan.uniform(2))


def test_a_copy_of_a_streamlined_network_has_no_plan():
    pipe = untrained.animatediff()
    with streamline.apply(pipe, Plan.uniform(2)):
        duplicate = copy.deepcopy(pipe.unet)
        assert streamline.is_applied(pipe)
    assert not streamline.is_applied(pipe)
    assert duplicate.forward.__func__ is type(pipe.unet).forward and duplicate.forward.__self__ is duplicate
