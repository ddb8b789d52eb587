"""A family that comes from outside, of one module, is held to what those that ship are held to."""

import inspect
import json
import random

import networks
import pytest
import test_by_rows
import test_cost
import test_offloading
import test_parity
import torch
import untrained
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from networks import Case
from pipelines import FRAMES, HEIGHT, PLANS, STEPS, TEXT_WIDTH, WIDTH, WIDTHS, Outcome, image_vae
from support import modelscope
from test_pipelines import FRAMES_TOLERANCE, LATENTS_TOLERANCE, ROUNDING
from torch import Tensor, nn

import streamline
from streamline import Job, Plan, PlanError, Rehash, Slicing, UnsupportedError, registry
from streamline.cli import main
from streamline.cost.pipeline_cost import PipelineCost
from streamline.cost.predicting import ExecutionTarget, predict
from streamline.families.base import Shape
from streamline.families.subjects import subject_of
from streamline.program.moments import measure


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """The family is known, and random networks of it are drawn as those of the others are."""
    registry.families()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_families", dict(registry._families))
        modelscope.register()
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


@pytest.mark.parametrize("seed", range(2))
def test_no_stage_writes_over_what_it_reads(seed):
    """FreeU works in place, and a feature that is kept for the next step may not be worked on twice."""
    case = modelscope_unet(seed)
    case.network.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    program = modelscope.lower(case.network)

    def execute(values, conditions):
        for stage in program.stages:
            reads = [stage.axis.whole(values[name]) for name in stage.reads]
            before = [read.clone() for read in reads]
            norm = () if stage.norm is None else (measure(stage.norm, reads[0], conditions.batch, slices=1),)
            result = stage.run(*norm, conditions, *reads)
            assert all(map(torch.equal, reads, before)), f"{stage.name} wrote over what it read"
            values[stage.name] = stage.axis.unslice(result, values[stage.reads[0]])
        return values[program.output]

    with torch.no_grad():
        modelscope.forward(case.network, execute, **case.arguments)


@pytest.mark.parametrize("seed", range(12))
def test_keeping_by_rows_gives_the_original_result(seed, record_property):
    test_by_rows.test_keeping_by_rows_gives_the_original_result("modelscope", seed, record_property)


@pytest.mark.parametrize("seed", range(4))
def test_offloaded_weights_give_the_original_result(seed, record_property):
    test_offloading.test_offloaded_weights_give_the_original_result("modelscope", seed, record_property)


@pytest.mark.parametrize("seed", range(6))
def test_the_composed_peak_is_the_measured_one(seed, record_property):
    test_cost.test_the_composed_peak_is_the_measured_one("modelscope", seed, record_property)
    test_by_rows.test_the_composed_peak_is_the_measured_one("modelscope", seed, record_property)


@pytest.fixture(scope="module")
def pipe() -> TextToVideoSDPipeline:
    return text_to_video()


def text_to_video() -> TextToVideoSDPipeline:
    torch.manual_seed(0)
    text = untrained.image_model().components
    unet = UNet3DConditionModel(
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
    )
    pipe = TextToVideoSDPipeline(
        vae=shaken(image_vae()),
        text_encoder=shaken(text["text_encoder"]),
        tokenizer=text["tokenizer"],
        unet=shaken(unet),
        scheduler=DDIMScheduler(clip_sample=False),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: TextToVideoSDPipeline, **changes) -> Outcome:
    """One video, from the same noise every time, and the latents of every step."""
    latents: list[Tensor] = []
    size = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "num_inference_steps": STEPS}
    arguments = {"prompt": "a cat", "negative_prompt": "a dog", "output_type": "pt", **size, **changes}
    generator = torch.Generator().manual_seed(7)
    frames = pipe(**arguments, generator=generator, callback=lambda *seen: latents.append(seen[2].clone())).frames
    return Outcome(torch.stack(latents), frames)


def held_to(expected: Outcome, result: Outcome, record_property) -> None:
    frames = (result.frames - expected.frames).abs().max().item()
    record_property("error: modelscope, latents of whole pipelines", result.error(expected))
    record_property("error: modelscope, frames of whole pipelines", frames)
    assert not result.same(expected), "the plan left no trace, so the original may have run twice"
    assert result.error(expected) <= LATENTS_TOLERANCE and frames <= FRAMES_TOLERANCE
    assert expected.frames.std() > 0.1, "frames this even would agree whatever happened"


def by_rows(guidance: str) -> Plan:
    return Plan(Slicing(3, 4, keep="rows"), Slicing(3, 4, keep="rows"), guidance=guidance)


WHOLE = {**PLANS, "rows, batched": by_rows("batched"), "rows, sequential": by_rows("sequential")}


@pytest.mark.parametrize("plan", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("guidance_scale", [9.0, 1.0])
def test_a_streamlined_pipeline_gives_the_original_video(pipe, plan, guidance_scale, record_property):
    expected = call(pipe, guidance_scale=guidance_scale)
    with streamline.apply(pipe, plan):
        held_to(expected, call(pipe, guidance_scale=guidance_scale), record_property)
    assert call(pipe, guidance_scale=guidance_scale).same(expected), "it is not itself again"


@pytest.mark.parametrize("dtype", ROUNDING)
def test_other_types_are_kept(dtype):
    pipe = text_to_video().to(dtype)
    expected = call(pipe, num_inference_steps=2)
    with streamline.apply(pipe, PLANS["groups"]):
        result = call(pipe, num_inference_steps=2)
    assert result.latents.dtype == expected.latents.dtype == dtype
    assert result.error(expected) <= ROUNDING[dtype]


def test_two_prompts_and_freeu_work_as_before(pipe, record_property):
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    try:
        prompts = {"prompt": ["a cat", "a dog"], "negative_prompt": ["a", "b"]}
        expected = call(pipe, **prompts)
        with streamline.apply(pipe, PLANS["groups"]):
            held_to(expected, call(pipe, **prompts), record_property)
    finally:
        pipe.disable_freeu()
    assert not call(pipe, **prompts).same(expected), "FreeU had no effect"


@pytest.mark.parametrize("cut", ["deepcache", "last-layer", "paper", "prediction"])
def test_steps_reuse_what_the_step_before_kept(pipe, cut):
    """Every cut leaves something out, any plan gives the same, and all steps in full change nothing."""
    program = modelscope.lower(pipe.unet)
    assert len(program.bind([program.cache_point(cut)]).stages) < len(program.stages)

    def video(rehash: Rehash | None, guidance: str, slicing: Slicing | None = None) -> Outcome:
        with streamline.apply(pipe, Plan(slicing or Slicing(), guidance=guidance, rehash=rehash)):
            return call(pipe)

    reusing = video(Rehash((0, 2, 4), cut), "batched")
    assert reusing.error(video(Rehash((0, 2, 4), cut), "sequential", Slicing(3, 2))) <= LATENTS_TOLERANCE
    assert reusing.error(video(None, "batched")) > 100 * LATENTS_TOLERANCE
    assert video(Rehash(range(STEPS), cut), "batched").same(video(None, "batched"))


def test_a_cut_that_is_not_there_is_refused(pipe):
    with streamline.apply(pipe, Plan(rehash=Rehash((0, 2), "up.9.join.0"))), pytest.raises(PlanError, match=r"up\.9"):
        call(pipe)


FOREIGN = {
    "transformer_in": "TransformerTemporalModel",
    "transformer_in.norm": "GroupNorm",
    "down_blocks.0": "CrossAttnDownBlock3D or DownBlock3D",
    "down_blocks.0.resnets.0": "ResnetBlock2D",
    "down_blocks.0.downsamplers.0": "Downsample2D",
    "down_blocks.0.temp_convs.0": "TemporalConvLayer",
    "down_blocks.0.temp_convs.0.conv3": "Sequential",
    "mid_block": "UNetMidBlock3DCrossAttn",
    "mid_block.attentions.0": "Transformer2DModel",
    "up_blocks.0": "CrossAttnUpBlock3D or UpBlock3D",
}


@pytest.mark.parametrize(("slot", "expected"), FOREIGN.items(), ids=FOREIGN)
def test_a_foreign_class_within_the_network_is_refused_by_name(pipe, slot, expected):
    own = pipe.unet.get_submodule(slot)
    pipe.unet.set_submodule(slot, nn.Identity())
    try:
        with pytest.raises(UnsupportedError, match=f"has a Identity where a {expected} was expected"):
            streamline.apply(pipe, Plan())
    finally:
        pipe.unet.set_submodule(slot, own)


def test_a_hook_on_what_is_opened_is_refused_by_name(pipe):
    hook = pipe.unet.mid_block.temp_convs[0].register_forward_hook(lambda module, inputs, output: output)
    try:
        with pytest.raises(UnsupportedError, match="A TemporalConvLayer is run part by part"):
            streamline.apply(pipe, Plan())
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "extra",
    [
        {"attention_mask": torch.ones(1, 77)},
        {"class_labels": torch.zeros(1)},
        {"mid_block_additional_residual": torch.zeros(2, 32, 2, 2)},
        {"down_block_additional_residuals": (torch.zeros(2, 32, 2, 2),)},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_arguments_that_no_plan_can_follow_are_refused_by_name(pipe, extra):
    arguments = modelscope.example(pipe.unet, Shape(1, 2, 4, 4))
    with streamline.apply(pipe, Plan()):
        assert pipe.unet(**arguments).sample.shape == arguments["sample"].shape
        with pytest.raises(UnsupportedError, match=r"an attention_mask .* are not supported .* leave them out"):
            pipe.unet(**arguments, **extra)


def test_the_signature_is_that_of_the_network():
    own, ours = (inspect.signature(one) for one in (UNet3DConditionModel.forward, modelscope.forward))
    assert list(own.parameters)[1:] == list(ours.parameters)[2:]
    assert [one.default for one in own.parameters.values()][1:] == [one.default for one in ours.parameters.values()][2:]


JOBS = [
    {"num_frames": 5},
    {"num_frames": 8, "guidance_scale": 1.0},
    {"height": 64, "width": 64, "num_frames": 4},
    {"height": 48, "width": 72, "num_frames": 6},
]
ROWS = Slicing(3, 4, keep="rows")
PLANNED = {
    "original": None,
    "whole": Plan(),
    "sliced": Plan.uniform(3),
    "rows": Plan(ROWS, ROWS, guidance="sequential"),
}


@pytest.mark.parametrize("given", JOBS, ids=str)
@pytest.mark.parametrize("plan", PLANNED.values(), ids=PLANNED)
def test_a_run_takes_what_was_predicted(pipe, plan, given, tmp_path, record_property):
    job = Job.for_model(pipe, prompt="a cat", **{"height": HEIGHT, "width": WIDTH, "num_inference_steps": 3, **given})
    costs = PipelineCost(subject_of(pipe), job, tmp_path)
    device = streamline.detect("cpu")
    predicted = predict(costs, plan, ExecutionTarget(device, streamline.rates_of(device)))
    result = streamline.run(pipe, job, plan)
    ratio = predicted.peak_bytes / result.peak_bytes
    record_property("error: modelscope, predicted to counted peak", abs(ratio - 1))
    assert 1 <= ratio <= 1.03
    assert len(result.frames) == job.num_frames and len(result.step_seconds) == 3


def test_a_tuned_run_keeps_to_its_budget_and_reads_its_own_field(pipe):
    job = Job.for_model(pipe, prompt="a cat", height=64, width=64, num_frames=6, num_inference_steps=3)
    known = streamline.forecast(pipe, job, device="cpu")
    plan = known.choose(known.frontier()[-1].prediction.peak_bytes).plan
    expected, tuned = streamline.run(pipe, job, None), streamline.run(pipe, job, plan)
    assert tuned.peak_bytes <= plan.budget_bytes < expected.peak_bytes and tuned.rungs == 0
    assert streamline.Fidelity.of(tuned.frames, expected.frames).largest_difference <= 1
    stirred = streamline.run(pipe, Job.from_dict(job.to_dict() | {"eta": 1.0}), plan)
    assert stirred.frames != tuned.frames
    assert streamline.preview(pipe, torch.zeros(1, 4, 6, 8, 8))[0].size == (256, 256)


def test_it_is_on_the_command_line_with_its_field(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True)
    out = tmp_path / "out.zip"
    asked = [
        "--model",
        str(tmp_path / "model"),
        "--prompt",
        "a cat",
        "--size",
        "40x32",
        "--frames",
        "3",
        "--steps",
        "2",
    ]
    assert main(["generate", *asked, "--eta", "0.5", "--device", "cpu", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["job"]["eta"] == 0.5
    assert streamline.read_receipt(out).job.eta == 0.5
    assert main(["generate", *asked, "--eta", "2", "--device", "cpu"]) == 2
    assert "eta must be a number of 0 to 1, not 2.0" in capsys.readouterr().err
    assert main(["models", "--json"]) == 0
    assert "modelscope" in [row["name"] for row in json.loads(capsys.readouterr().out)]


def test_it_is_planned_at_its_published_size(capsys):
    assert main(["plan", "--model", "modelscope", "--budget", "4.5GiB", "--emulate", "RTX 3060", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["feasible"] and answer["predicted_peak_bytes"] <= 4.5 * 2**30
    known = streamline.forecast("modelscope", Job.from_dict(answer["job"]), device=streamline.emulate("RTX 3060"))
    assert known.original.peak_bytes > answer["predicted_peak_bytes"]
