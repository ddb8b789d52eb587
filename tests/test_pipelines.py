"""Whole pipelines give the video that untouched diffusers gives, and are themselves again afterwards."""

import gc
import inspect
import weakref

import pytest
import torch
from pipelines import PIPELINES, PLANS

import streamline
from streamline import Plan, UnsupportedError

LATENTS_TOLERANCE = 1e-5
FRAMES_TOLERANCE = 1 / 255
ROUNDING = {torch.float64: 1e-12, torch.float16: 0.02, torch.bfloat16: 0.08}  # 10 to 20 of their smallest steps

PLAN = PLANS["groups"]


@pytest.fixture(scope="module", params=PIPELINES)
def case(request):
    """A pipeline, and what it gave before anything was done to it."""
    call = PIPELINES[request.param]()
    return call, call()


@pytest.fixture(scope="module", params=["svd", "animatediff"])
def family(request):
    """One pipeline of each family, for what does not depend on the pipeline's inputs."""
    call = PIPELINES[request.param]()
    return call, call()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_streamlined_pipeline_gives_the_original_video(case, plan, record_property):
    call, expected = case
    with streamline.apply(call.pipe, plan):
        result = call()
    assert not result.same(expected), "the plan left no trace, so the original may have run twice"
    record_property("error: latents of whole pipelines", result.error(expected))
    record_property("error: frames of whole pipelines", (result.frames - expected.frames).abs().max().item())
    assert result.error(expected) <= LATENTS_TOLERANCE
    assert (result.frames - expected.frames).abs().max() <= FRAMES_TOLERANCE
    assert expected.frames.std() > 0.1, "frames this even would agree whatever happened"


def test_a_restored_pipeline_is_bit_identical(case):
    call, expected = case
    before = _state(call.pipe)
    with streamline.apply(call.pipe, PLAN):
        pass
    assert _differences(before, _state(call.pipe)) == []
    assert call().same(expected)


def test_an_applied_plan_is_found_on_the_networks_alone(family):
    call, _ = family
    before = _state(call.pipe)
    with streamline.apply(call.pipe, PLAN):
        assert _differences(before, _state(call.pipe)) == ["unet.forward", "decoder.forward"]


@pytest.mark.parametrize("where", ["with", "callback", "call"])
def test_an_error_restores_the_pipeline_too(family, where):
    call, expected = family
    before = _state(call.pipe)

    def callback(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, TypeError)), streamline.apply(call.pipe, PLAN):
        if where == "with":
            raise KeyboardInterrupt
        if where == "callback":
            call.pipe(**call.arguments, callback_on_step_end=callback)
        call.pipe.unet(no_such_argument=None)
    assert _differences(before, _state(call.pipe), of=("unet", "decoder")) == []
    assert call().same(expected)


def test_a_failed_forward_leaves_the_plan_at_work(family):
    call, expected = family
    with streamline.apply(call.pipe, PLAN):
        streamlined = call()
        with pytest.raises(TypeError):
            call.pipe.unet(no_such_argument=None)
        assert call().same(streamlined)
    assert call().same(expected)


def test_restoring_twice_does_nothing(family):
    call, expected = family
    applied = streamline.apply(call.pipe, PLAN)
    applied.restore()
    applied.restore()
    with streamline.apply(call.pipe, PLAN):
        applied.restore()
        assert not call().same(expected), "restoring an old plan took off the new one"
    assert call().same(expected)


def test_nothing_holds_on_to_a_plan_that_was_taken_off(family):
    call, _ = family
    applied = streamline.apply(call.pipe, Plan.uniform(2))
    forward = call.pipe.unet.forward
    references = [weakref.ref(applied), weakref.ref(forward)]
    call()
    applied.restore()
    del applied, forward
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_whoever_kept_the_streamlined_forward_gets_the_original_one(family):
    call, expected = family
    unet = call.pipe.unet
    with streamline.apply(call.pipe, PLAN):
        kept = unet.forward
        unet.forward = lambda *args, **kwargs: kept(*args, **kwargs)
        assert not call().same(expected)
    assert call().same(expected)
    del unet.forward


def test_a_plan_applied_already_is_refused(family):
    call, expected = family
    with streamline.apply(call.pipe, PLAN):
        streamlined = call()
        with pytest.raises(UnsupportedError, match="streamlined already; restore it"):
            streamline.apply(call.pipe, Plan())
        assert call().same(streamlined)
    assert call().same(expected)


def test_the_signature_is_kept(family):
    """diffusers and accelerate look at it to know what a network takes."""
    unet = family[0].pipe.unet
    expected = inspect.signature(unet.forward)
    with streamline.apply(family[0].pipe, PLAN):
        assert inspect.signature(unet.forward) == expected


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", ["svd", "animatediff"])
def test_other_types_are_kept(name, dtype):
    call = PIPELINES[name]()
    call.pipe.to(dtype)
    call.arguments["num_inference_steps"] = 2
    expected = call()
    with streamline.apply(call.pipe, PLAN):
        result = call()
    assert result.latents.dtype == expected.latents.dtype
    assert result.frames.dtype == expected.frames.dtype
    assert result.error(expected) <= ROUNDING[dtype]


def _state(pipe):
    """What can be seen of a pipeline and of the networks a plan is for."""
    owners = {"pipe": pipe, "unet": pipe.unet, "decoder": pipe.vae.decoder}
    return {f"{name}.{key}": value for name, owner in owners.items() for key, value in vars(owner).items()}


def _differences(before, after, of=("pipe", "unet", "decoder")):
    keys = [key for key in {**before, **after} if key.split(".")[0] in of]
    missing = object()
    return [key for key in keys if before.get(key, missing) is not after.get(key, missing)]
