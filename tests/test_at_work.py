"""Where a run is when memory runs out: seen by hooks on the networks of a pipeline, which are gone afterwards."""

import os
import random
import traceback

import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers import AnimateDiffPipeline, DDIMScheduler
from faults import Faults
from PIL import Image
from pipelines import PIPELINES, image_to_video, text_to_video, text_to_video_xl
from torch import nn

import streamline
from streamline import Cancelled, Hooks, Job, OutOfMemory, Plan, PlanDowngraded, Rehash, Slicing, Step, run
from streamline.applying.at_work import AtWork, Where
from streamline.families.networks import autoencoder_of
from streamline.output.metrics import largest_difference

CASES = int(os.environ.get("STREAMLINE_CASES", 6))  # faults in every pipeline


def networks_of(pipe):
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def offload(pipe):
    """As enable_model_cpu_offload does, which itself wants a GPU."""
    hook = None
    for network in networks_of(pipe).values():
        _, hook = cpu_offload_with_hook(network, execution_device="cpu", prev_module_hook=hook)


def hooks_on(pipe):
    """All that hangs on the networks and the scheduler."""
    found = {"scheduler": vars(pipe.scheduler).get("step")}
    for name, network in networks_of(pipe).items():
        for path, module in network.named_modules():
            hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
            hooks = [hook for hook in hooks if not hook.__module__.startswith("transformers.")]  # they stay for good
            found[f"{name}.{path}"] = (hooks, vars(module).get("forward"), vars(module).get("_old_forward"))
    return found


def changed(before, after):
    return {key: (before.get(key), after[key]) for key in after if before.get(key) != after[key]}


def failing_component(error, pipe):
    """The outermost network among the callers in a traceback; of an autoencoder, one of its parts."""
    networks = networks_of(pipe)
    autoencoder = autoencoder_of(pipe)
    names = {id(network): name for name, network in networks.items() if network is not autoencoder}
    name = next(name for name, network in networks.items() if network is autoencoder)
    names |= {id(part): name for part in autoencoder.children()}
    callers = (id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((names[caller] for caller in callers if caller in names), None)


@pytest.mark.parametrize("is_offloaded", [False, True], ids=["resident", "offloaded"])
@pytest.mark.parametrize("kind", PIPELINES)
def test_hooks_see_what_a_traceback_shows(kind, is_offloaded):
    """At random operators of every pipeline, in all of its networks and between them."""
    call, rng = PIPELINES[kind](), random.Random(kind)
    if is_offloaded:
        offload(call.pipe)
    before, at_work = hooks_on(call.pipe), AtWork(call.pipe)
    with Faults(lambda _: False) as counted:
        call()
    total, seen = len(counted.inside), set()
    picked = {*rng.sample(range(1, total), CASES), *range(1, total // 4, total // 4 // CASES), total - 3}
    for last in sorted(picked):
        with Faults(lambda index, last=last: index == last):
            try:
                with at_work:
                    call()
            except torch.OutOfMemoryError as error:
                seen.add(failing_component(error, call.pipe))
                assert at_work.where(0, False).component == failing_component(error, call.pipe)
            else:
                pytest.fail("nothing ran out")
        assert changed(before, hooks_on(call.pipe)) == {}
    assert len(seen) > 1
    with at_work:
        call()
    assert at_work.where(0, False).component is None, "what failed before is over"


def test_a_place_is_known_by_what_it_is_not_by_its_words():
    assert Where("a", 1, False, "here") == Where("a", 1, False, "there") != Where("a", 2, False, "here")
    assert str(Where(None, 0, False, "before the first step")) == "before the first step"


WORDS = {
    ("text_encoder", 1): "while the text was encoded",
    ("text_encoder_2", 1): "while the text was encoded",
    ("image_encoder", 1): "while the picture was encoded",
    ("unet", 1): "in the denoiser",
    ("unet", 3): "in the denoiser, after step 2",
}


@pytest.mark.parametrize("is_offloaded", [False, True], ids=["resident", "offloaded"])
@pytest.mark.parametrize(("name", "number"), WORDS)
def test_the_network_that_fails_is_named(name, number, is_offloaded, monkeypatch):
    """Without a plan, and with one where the failing call cannot be made again; weights that are brought count too."""
    kind = {"text_encoder_2": text_to_video_xl, "image_encoder": image_to_video}.get(name, text_to_video)
    pipe = kind().pipe
    given = {"num_frames": 2, "num_inference_steps": 4, "height": 32, "width": 32}
    picture = Image.radial_gradient("L").convert("RGB") if name == "image_encoder" else None
    job = Job.for_model(pipe, **given) if picture else Job.for_model(pipe, prompt="a cat", **given)
    network, calls = networks_of(pipe)[name], []

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) >= number:
            raise torch.OutOfMemoryError("On demand.")
        return own(*args, **kwargs)

    if is_offloaded:
        offload(pipe)
        own = network._hf_hook.pre_forward
        monkeypatch.setattr(network._hf_hook, "pre_forward", fail)
    elif name != "unet":
        own = network.forward
        monkeypatch.setattr(network, "forward", fail)
    else:
        own = network.conv_in.forward
        monkeypatch.setattr(network.conv_in, "forward", fail)
    before, words = hooks_on(pipe), WORDS[name, number]
    with pytest.raises(OutOfMemory, match=f"^Memory ran out {words}; .*or use a plan\\.$"):
        run(pipe, job, None, picture)
    assert changed(before, hooks_on(pipe)) == {}
    if name == "unet" and not is_offloaded:
        return  # its call is made again, and refused for the forward that stands in its way
    calls.clear()
    with pytest.raises(OutOfMemory, match=f"^Memory ran out {words}, with nothing left to give back; "):
        run(pipe, job, Plan(), picture)
    assert changed(before, hooks_on(pipe)) == {}


def test_what_fails_at_two_places_is_done_again_at_both(monkeypatch):
    """The fallback remembers where it gave back what lay unused: each place has one more try."""
    pipe = text_to_video().pipe
    job = Job.for_model(pipe, prompt="a cat", num_frames=2, num_inference_steps=4, height=32, width=32)
    step, calls, told = pipe.scheduler.step, [], []

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) in (2, 5):
            raise torch.OutOfMemoryError("On demand.")
        return step(*args, **kwargs)

    monkeypatch.setattr(pipe.scheduler, "step", fail)
    result = run(pipe, job, Plan(), on_event=lambda event: told.append(event) if type(event) is PlanDowngraded else 0)
    assert [event.sentence.split(":")[0] for event in told] == [f"Memory ran out after step {n}" for n in (1, 2)]
    assert result.rungs == 2


@pytest.mark.parametrize("is_offloaded", [False, True], ids=["resident", "offloaded"])
@pytest.mark.parametrize("plan", [None, Plan(), Plan.uniform(2), Plan(rehash=Rehash((0, 2), "paper"))])
@pytest.mark.parametrize("end", ["done", "cancelled", "listener", "no memory"])
def test_nothing_is_left_on_a_pipeline_after_a_run(plan, end, is_offloaded, monkeypatch):
    pipe = text_to_video().pipe
    if is_offloaded:
        offload(pipe)
    job = Job.for_model(pipe, prompt="a cat", num_frames=2, num_inference_steps=3, height=32, width=32)
    before, done = hooks_on(pipe), []

    def listen(event):
        done.append(type(event) is Step)
        if end == "listener" and sum(done) > 1:
            raise KeyboardInterrupt

    if end == "done":
        run(pipe, job, plan, on_event=listen)
    elif end == "no memory":
        with Faults(lambda call: call > 300), pytest.raises(OutOfMemory):
            run(pipe, job, plan, on_event=listen)
    else:
        with pytest.raises((Cancelled, KeyboardInterrupt)):
            run(pipe, job, plan, on_event=listen, should_stop=lambda: end == "cancelled" and sum(done) > 1)
    assert changed(before, hooks_on(pipe)) == {}


class Boundary(DDIMScheduler):
    """Remembers the timestep, which says whose turn it is."""

    now = 1000

    def scale_model_input(self, sample, timestep=None):
        self.now = int(timestep)
        return sample


class TwoExperts(AnimateDiffPipeline):
    """One denoiser for the early steps, another one for the late ones."""

    def __init__(
        self, vae, text_encoder, tokenizer, unet, motion_adapter, scheduler, expert, feature_extractor=None,
        image_encoder=None,
    ):  # fmt: skip
        super().__init__(vae, text_encoder, tokenizer, unet, motion_adapter, scheduler)
        self.register_modules(expert=expert)

    @property
    def unet(self):
        return self.expert if self.scheduler.now < 400 else vars(self)["early"]

    @unet.setter
    def unet(self, network):
        vars(self)["early"] = network


@pytest.fixture
def experts(monkeypatch):
    parts = {name: part for name, part in text_to_video().pipe.components.items() if "image" not in name}
    parts = {name: part for name, part in parts.items() if name not in ("scheduler", "feature_extractor")}
    expert = text_to_video().pipe.unet
    for weight in expert.parameters():
        weight.mul_(0.9)
    pipe = TwoExperts(**parts, scheduler=Boundary(clip_sample=False, steps_offset=1), expert=expert)
    pipe.set_progress_bar_config(disable=True)
    for module in ("applying.apply", "running.run"):
        monkeypatch.setattr(f"streamline.{module}.denoisers_of", lambda pipe: (vars(pipe)["early"], pipe.expert))
    return pipe, Job.for_model(pipe, prompt="a cat", num_frames=2, num_inference_steps=6, height=32, width=32)


def test_two_denoisers_take_turns_under_one_plan(experts):
    pipe, job = experts
    calls = []
    handles = [
        network.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, network in (("early", vars(pipe)["early"]), ("late", pipe.expert))
    ]
    original, before = run(pipe, job), hooks_on(pipe)
    assert calls == ["early"] * 3 + ["late"] * 3
    asked = []
    for plan in (Plan.uniform(3), Plan(Slicing(2, 2, group=1), guidance="sequential")):
        result = run(pipe, job, plan, should_stop=lambda: asked.append(1))
        assert largest_difference(result.frames, original.frames) <= 1 and len(result.step_seconds) == 6
    assert len(asked) > 100 and changed(before, hooks_on(pipe)) == {}
    with streamline.apply(pipe, Plan(), Hooks(around_step=lambda call, *args, **kwargs: call(*args, **kwargs))):
        assert streamline.is_applied(pipe)
    assert not streamline.is_applied(pipe)
    for handle in handles:
        handle.remove()


def test_when_memory_runs_out_in_one_of_two_denoisers_its_call_is_made_again(experts):
    pipe, job = experts
    expected, told = run(pipe, job, Plan()), []
    networks = (vars(pipe)["early"], pipe.expert)
    with Faults(lambda _: False, networks[1:]) as counted:
        run(pipe, job, Plan())
    late = [index for index, inside in enumerate(counted.inside, 1) if inside][20]
    with Faults(lambda call: call == late, networks):
        result = run(pipe, job, Plan(), on_event=lambda e: told.append(e.part) if type(e) is PlanDowngraded else 0)
    assert told == ["denoiser"] and largest_difference(result.frames, expected.frames) <= 1


def test_one_denoiser_never_reuses_what_another_has_cached(experts):
    """The step in which the other takes over is computed in full, whatever the plan says."""
    pipe, job = experts
    lazy, due = (run(pipe, job, Plan(rehash=Rehash(full, "paper"))) for full in ((0, 5), (0, 3, 5)))
    assert largest_difference(lazy.frames, due.frames) == 0
    plain = run(pipe, job, Plan())
    assert largest_difference(lazy.frames, plain.frames) > 0
