"""Where no call of a network can be made again the pipeline is called again, and goes on from where it was."""

import functools

import pytest
import torch
import untrained
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

from streamline import Job, OutOfMemory, Plan, Rehash, Step, run
from streamline.families.networks import network_of
from streamline.output.metrics import largest_difference

SCHEDULERS = (
    DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, LCMScheduler,
    PNDMScheduler, functools.partial(PNDMScheduler, skip_prk_steps=False), UniPCMultistepScheduler,
)  # fmt: skip
GIVEN = {"num_frames": 2, "num_inference_steps": 5, "height": 32, "width": 32, "seed": 3}


class Failing:
    """A part of a pipeline that memory runs out in, at some of its calls, and what the denoiser does meanwhile."""

    def __init__(self, monkeypatch, owner, name, fails, pipe, before=True):
        self.calls, self.denoised, own = 0, 0, getattr(owner, name)

        @functools.wraps(own)  # pipelines look at what a scheduler takes
        def failing(*args, **kwargs):
            self.calls += 1
            if before and fails(self.calls):
                raise torch.OutOfMemoryError("On demand.")
            result = own(*args, **kwargs)
            if fails(self.calls):
                raise torch.OutOfMemoryError("On demand.")
            return result

        monkeypatch.setattr(owner, name, failing)
        block, self._count = pipe.unet.conv_in, 0
        self._hook = block.register_forward_hook(lambda *_: setattr(self, "denoised", self.denoised + 1))

    def remove(self):
        self._hook.remove()


def animatediff(scheduler=DDIMScheduler):
    pipe = untrained.animatediff()
    pipe.scheduler = scheduler(num_train_timesteps=100)
    pipe.set_progress_bar_config(disable=True)
    return pipe, Job.for_model(pipe, prompt="a cat", **GIVEN)


def made(pipe, job, plan=None):
    steps = []
    result = run(pipe, job, plan or Plan(), None, lambda event: steps.append(event) if type(event) is Step else None)
    assert len(steps) == len(result.step_seconds)
    assert [step.index for step in steps] == [index % steps[0].total for index in range(len(steps))]
    return result, [step.latents.clone() for step in steps]


def assert_same(one, other):
    assert len(one[1]) == len(other[1])
    for a, b in zip(one[1], other[1], strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert largest_difference(one[0].frames, other[0].frames) <= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda kind: getattr(kind, "__name__", "of Runge and Kutta"))
@pytest.mark.parametrize("before", [True, False], ids=["before it steps", "after"])
def test_a_scheduler_that_memory_runs_out_in_goes_on_with_what_it_knew(monkeypatch, scheduler, before):
    pipe, job = animatediff(scheduler)
    undisturbed = made(pipe, job)
    steps = len(undisturbed[1])
    with monkeypatch.context() as patch:
        failing = Failing(patch, pipe.scheduler, "step", lambda call: call in (3, 3 + 2 + 3), pipe, before)
        again = made(pipe, job)
        failing.remove()
    assert_same(again, undisturbed)
    assert again[0].rungs == 2 and failing.denoised == steps, "no step was denoised twice"


@pytest.mark.parametrize("residency", ["resident", "group offload"])
@pytest.mark.parametrize("where", ["first step", "rehash step", "full step"])
def test_a_rehash_goes_on_with_the_features_it_kept(monkeypatch, where, residency):
    pipe, job = animatediff()
    cut = network_of(pipe.unet).lower(pipe.unet).cache_point("last-layer")
    plan = Plan(rehash=Rehash((0, 2, 4), cut, extrapolation=0.5), residency=residency)
    undisturbed = made(pipe, job, plan)
    last = {"first step": 1, "rehash step": 2, "full step": 3}[where]
    with monkeypatch.context() as patch:
        failing = Failing(patch, pipe.scheduler, "step", lambda call: call == last, pipe)
        again = made(pipe, job, plan)
        failing.remove()
    assert_same(again, undisturbed)


def test_rounds_of_free_init_draw_the_same_noise_again(monkeypatch):
    pipe, job = animatediff()
    pipe.enable_free_init(num_iters=2)
    torch.manual_seed(1)
    undisturbed = made(pipe, job)
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        Failing(patch, pipe.scheduler, "step", lambda call: call == 8, pipe).remove()
        again = made(pipe, job)
    assert len(again[1]) == 10
    assert_same(again, undisturbed)


@pytest.mark.parametrize("part", ["text_encoder", "vae", "video_processor"])
def test_what_fails_twice_at_the_same_place_is_one_sentence_that_names_it(monkeypatch, part):
    pipe, job = animatediff()
    names = {"text_encoder": "forward", "vae": "decode", "video_processor": "postprocess_video"}
    words = {
        "text_encoder": "while the text was encoded",
        "vae": "after step 5",
        "video_processor": "while the frames were put together",
    }
    with monkeypatch.context() as patch:
        failing = Failing(patch, getattr(pipe, part), names[part], lambda call: True, pipe)
        with pytest.raises(OutOfMemory, match=f"^Memory ran out {words[part]}, with nothing left to give back; .*\\.$"):
            made(pipe, job)
        failing.remove()
        assert failing.calls == 2 and failing.denoised == (0 if part == "text_encoder" else 5)
        with pytest.raises(OutOfMemory, match=f"^Memory ran out {words[part]}; .*or use a plan\\.$"):
            run(pipe, job)
    assert "forward" not in vars(pipe.unet)
    made(pipe, job)


def test_the_autoencoder_is_of_its_own_type_again(monkeypatch):
    """SVD's is in float32 while it encodes the picture: a failure there must not leave it so."""
    pipe = untrained.svd()
    pipe.vae.to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    job = Job.for_model(pipe, **GIVEN)
    seen = []

    def fail(*_):
        seen.append(pipe.vae.encoder.conv_in.weight.dtype)
        raise torch.OutOfMemoryError("On demand.")

    for plan in (Plan(), None):
        handle = pipe.vae.encoder.register_forward_pre_hook(fail)
        with pytest.raises(OutOfMemory, match="while the picture was encoded"):
            run(pipe, job, plan, Image.new("RGB", (32, 32)))
        handle.remove()
        assert {weight.dtype for weight in pipe.vae.parameters()} == {torch.float16}
    assert seen == [torch.float32] * 3


@pytest.mark.gpu
def test_on_a_gpu_networks_leave_before_it_is_given_up(monkeypatch):
    pipe, job = animatediff()
    pipe.to("cuda")
    undisturbed = made(pipe, job)
    with monkeypatch.context() as patch:
        failing = Failing(patch, pipe.scheduler, "step", lambda call: call in (3, 6), pipe)
        again = made(pipe, job)
        failing.remove()
    assert again[0].rungs == 2 and again[0].plan.residency == "model offload"
    assert_same(again, undisturbed)
    assert pipe.unet.device.type == "cuda" and not hasattr(pipe.unet, "_hf_hook")
