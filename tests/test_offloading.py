"""Weights that come group by group: the same numbers, only those of two groups on the device, all back at the end."""

import copy
from dataclasses import replace

import pytest
import torch
import untrained
from networks import KINDS, random_plan
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from test_by_rows import sparing
from test_cost import Composed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamline import Cancelled, Hooks, Job, OutOfMemory, Plan, Rehash, Source, apply, load, predict, run
from streamline.commands.plan import WEIGHTS
from streamline.families.base import Shape
from streamline.families.networks import network_of
from streamline.families.running import run_network
from streamline.planning.planner import RESIDENCIES
from streamline.program.weights import weights_of
from streamline.weights.offloading import GroupOffload
from ui.orders import Settings
from ui.panels import sentence

COPYING = {torch.ops.aten.copy_, torch.ops.aten.empty_like, torch.ops.aten.detach, torch.ops.aten.clone}


class OnlyFromTheDevice(TorchDispatchMode):
    """Fails where an operator computes with weights that stand in host memory."""

    def __init__(self, networks):
        super().__init__()
        self.hosts = {tensor.untyped_storage()._cdata for tensor in weights_of(networks)}
        self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_host = any(leaf.untyped_storage()._cdata in self.hosts for leaf in leaves)
        assert not is_host or func.overloadpacket in COPYING, f"{func} computes with weights in host memory"
        self.copied += is_host and func.overloadpacket is torch.ops.aten.copy_
        return func(*args, **(kwargs or {}))


def storages(*networks):
    return [tensor.untyped_storage()._cdata for tensor in weights_of(networks)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_offloaded_weights_give_the_original_result(kind, seed, record_property):
    case, plan = KINDS[kind](seed), (random_plan if seed % 2 else sparing)(seed)
    expected, before = case.original(), storages(case.network)
    weights, sequential = GroupOffload(torch.device("cpu")), plan.guidance == "sequential"
    with torch.no_grad(), OnlyFromTheDevice([case.network]):
        result = run_network(case.network, plan.denoiser, sequential, weights=weights, **case.arguments)
    error = ((case.read(result) - expected).abs().max() / expected.abs().max()).item()
    record_property(f"error: {kind} with offloaded weights, relative, float32", error)
    assert error <= 1e-5
    assert storages(case.network) == before and weights.bytes_on_device == 0


@pytest.fixture(scope="module", params=["animatediff", "svd"])
def case(request):
    """A pipeline, a job for it and its image."""
    pipe = getattr(untrained, request.param)()
    pipe.set_progress_bar_config(disable=True)
    given = {"num_frames": 3, "num_inference_steps": 3, "height": 32, "width": 32, "seed": 3}
    if request.param == "animatediff":
        return pipe, Job.for_model(pipe, prompt="a cat", **given), None
    return pipe, Job.for_model(pipe, **given), Image.radial_gradient("L").convert("RGB")


def networks_of(pipe):
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def plans(pipe):
    cut = network_of(pipe.unet).lower(pipe.unet).cache_point("last-layer")
    return {
        "unsliced": Plan(),
        "sequential": Plan.uniform(3),
        "rehash": replace(Plan.uniform(2), rehash=Rehash((0, 2), cut)),
        "prediction reused": replace(Plan.uniform(2), rehash=Rehash((0, 2), "prediction")),
    }


@pytest.mark.parametrize("how", ["unsliced", "sequential", "rehash", "prediction reused", "with LoRA"])
def test_a_whole_pipeline_makes_the_same_video(case, how):
    pipe, job, image = case
    plan = plans(pipe).get(how, Plan())
    if how == "with LoRA":
        pipe = copy.deepcopy(pipe)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), pipe.unet)
        assert any("lora" in name for name, _ in pipe.unet.named_parameters())
    before = storages(*networks_of(pipe))
    expected = run(pipe, job, plan, image)
    with OnlyFromTheDevice(networks_of(pipe)) as watched:
        result = run(pipe, job, replace(plan, residency="group offload"), image, count_tensors=False)
    assert result.frames == expected.frames and watched.copied
    assert storages(*networks_of(pipe)) == before


def test_a_step_that_reuses_features_is_sent_only_what_it_runs(case):
    pipe, job, image = case
    copied = {}
    for how in ("sequential", "rehash"):
        plan = replace(plans(pipe)[how], guidance="batched", residency="group offload")
        with OnlyFromTheDevice(networks_of(pipe)) as watched:
            run(pipe, job, plan, image, count_tensors=False)
        copied[how] = watched.copied
    assert copied["rehash"] < copied["sequential"]


def test_weights_are_back_wherever_a_run_ends(case):
    pipe, job, image = case
    before, plan = storages(*networks_of(pipe)), replace(Plan.uniform(2), residency="group offload")
    expected = run(pipe, job, plan, image)
    for last in (1, 5, 30, 60, 90):
        asked = iter(range(1, last + 1))
        with pytest.raises(Cancelled):
            run(pipe, job, plan, image, should_stop=lambda asked=asked: next(asked, None) is None)
        assert storages(*networks_of(pipe)) == before
        assert not any(part._forward_pre_hooks for part in pipe.vae.children())
    with pytest.raises(ZeroDivisionError), apply(pipe, plan, Hooks(before_slice=lambda: 1 / 0)):
        pipe.unet(**network_of(pipe.unet).example(pipe.unet, Shape(1, 2, 8, 8)))
    assert storages(*networks_of(pipe)) == before
    assert run(pipe, job, plan, image).frames == expected.frames


def test_memory_that_runs_out_leads_to_a_tighter_plan(case):
    pipe, job, image = case
    plan = Plan(residency="group offload")
    undisturbed = run(pipe, job, plan, image)
    tight = run(pipe, job, replace(Plan.uniform(8), residency="group offload"), image).peak_bytes
    squeezed = run(pipe, job, plan, image, budget=(tight + undisturbed.peak_bytes) // 2)
    assert squeezed.rungs and squeezed.plan.residency == "group offload"
    before = storages(*networks_of(pipe))
    with pytest.raises(OutOfMemory):
        run(pipe, job, plan, image, budget=int(0.98 * undisturbed.weights_bytes))
    assert storages(*networks_of(pipe)) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_composed_peak_is_the_measured_one(kind, seed, record_property):
    composed, plan = Composed(KINDS[kind](seed)), replace(random_plan(seed), residency="group offload")
    peak = composed.cost(plan).peak_bytes
    ratio = peak / composed.measured(plan)
    record_property(f"error: composed to measured peak with offloaded weights, {kind}", abs(ratio - 1))
    assert 0.98 <= ratio <= 1.02
    resident = composed.cost(replace(plan, residency="resident")).peak_bytes
    assert peak <= resident + sum(tensor.nbytes for tensor in weights_of([composed.case.network]))


@pytest.mark.parametrize("model", ["tiny-svd", "tiny-animatediff"])
def test_whole_pipelines_take_what_is_predicted(model, record_property, tmp_path, monkeypatch):
    """On a CPU weights are copied beside those that are there already, which is counted as it is."""
    monkeypatch.setenv("STREAMLINE_CACHE", str(tmp_path))  # what earlier runs have taught has no say here
    pipe = load(model)
    pipe.set_progress_bar_config(disable=True)
    image = Image.radial_gradient("L").convert("RGB") if model == "tiny-svd" else None
    given = {} if image else {"prompt": "a red circle"}
    job = Job.for_model(pipe, height=64, width=64, num_frames=6, num_inference_steps=3, **given)
    plan = replace(Plan.uniform(6), residency="group offload")
    prediction, result = predict(pipe, job, plan, device="cpu"), run(pipe, job, plan, image)
    ratio = (prediction.peak_bytes - result.weights_bytes) / (result.peak_bytes - result.weights_bytes)
    record_property("error: predicted to measured peak beside the host's weights, group offload", abs(ratio - 1))
    assert 0.98 <= ratio <= 1.02


def test_every_way_to_keep_weights_is_said_in_words(case):
    """In the app and on the command line, each in its own; nobody has to know what is written in a plan."""
    _, job, _ = case
    settings = Settings("a model", Source("a model"), job)
    said = {residency: sentence(Plan(residency=residency), settings) for residency in RESIDENCIES}
    assert len(set(said.values())) == len(said) == len(WEIGHTS) and set(WEIGHTS) == set(RESIDENCIES)
    assert "computer’s own memory" in said["group offload"]


def test_what_a_pipeline_puts_in_the_place_of_weights_stays():
    """SVD's autoencoder is cast to float32 for its picture and back, some of it while it is on the device."""
    layer = torch.nn.Linear(3, 2)
    weights = GroupOffload(torch.device("cpu"))
    weights.hold(weights_of([layer]))
    layer.half()
    weights.hold(())
    assert layer.weight.dtype == layer.bias.dtype == torch.float16
