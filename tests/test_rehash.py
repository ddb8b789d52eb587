"""A step may reuse what the step before kept: nothing changes without it, little with it, and nothing stays behind."""

from dataclasses import replace

import pytest
import torch
import untrained
from diffusers.schedulers import AysSchedules
from PIL import Image

from streamline import (
    Job,
    LiveTensors,
    Plan,
    PlanError,
    Rehash,
    Sampler,
    Slicing,
    UnsupportedError,
    apply,
    predict,
    run,
)
from streamline.applying.reuse import FeatureCache
from streamline.families.networks import call_arguments, network_of
from streamline.output.metrics import largest_difference
from streamline.program.axes import FRAMES
from streamline.program.conditions import Conditions
from streamline.program.executor import Call
from streamline.program.stages import Program, Stage
from streamline.sampler import takes_sigmas

STEPS = 5
IMAGE = Image.radial_gradient("L").convert("RGB")


@pytest.fixture(scope="module", params=["svd", "animatediff"])
def case(request):
    pipe = getattr(untrained, request.param)()
    pipe.set_progress_bar_config(disable=True)
    is_svd = request.param == "svd"
    given = {} if is_svd else {"prompt": "a cat"}
    job = Job.for_model(pipe, height=32, width=32, num_frames=4, num_inference_steps=STEPS, **given)
    return pipe, job, IMAGE if is_svd else None


def _rehash(pipe, full_steps):
    return Rehash(full_steps, network_of(pipe.unet).lower(pipe.unet).cache_point("last-layer"))


@pytest.mark.parametrize("guidance", ["batched", "sequential"])
def test_all_steps_in_full_change_nothing(case, guidance):
    pipe, job, image = case
    plans = [Plan(Slicing(3, 2), guidance=guidance, rehash=rehash) for rehash in (None, _rehash(pipe, range(STEPS)))]
    exact, kept = (run(pipe, job, plan, image) for plan in plans)
    assert largest_difference(exact.frames, kept.frames) == 0


def test_halves_apart_keep_features_of_their_own(case):
    pipe, job, image = case
    rehash = _rehash(pipe, (0, 2, 4))
    results = [run(pipe, job, Plan(guidance=guidance, rehash=rehash), image) for guidance in ("batched", "sequential")]
    assert largest_difference(*(result.frames for result in results)) <= 1
    sliced = run(pipe, job, Plan(Slicing(2, 3), guidance="sequential", rehash=rehash), image)
    assert largest_difference(results[0].frames, sliced.frames) <= 1


def test_a_second_run_starts_anew_and_nothing_stays(case):
    """Also where the first one was stopped midway."""
    pipe, job, image = case
    plan = Plan(rehash=_rehash(pipe, (0, 3, 4)))
    alone = run(pipe, job, plan, image)

    def stop(pipe, step, timestep, tensors):
        if step == 1:
            raise InterruptedError
        return tensors

    given = {"image": IMAGE} if image else {"prompt": "a cat"}
    size = {"height": 32, "width": 32, "num_frames": 4, "num_inference_steps": STEPS}
    with apply(pipe, plan):
        with pytest.raises(InterruptedError):
            pipe(**given, **size, callback_on_step_end=stop)
        generator = torch.Generator().manual_seed(job.seed)
        again = pipe(**given, **size, generator=generator).frames[0]
    if image is None or image.size == (32, 32):
        assert largest_difference(alone.frames, again) == 0
    untouched = run(pipe, job, None, image)
    assert largest_difference(untouched.frames, run(pipe, job, Plan(), image).frames) <= 1


def test_a_cut_that_is_not_there_is_named(case):
    pipe, job, image = case
    with pytest.raises(PlanError, match="up\\.9"):
        run(pipe, job, Plan(rehash=Rehash((0, 2), "up.9.attention.0.out")), image)


CUTS = ("deepcache", "last-layer", "paper", "prediction")


@pytest.mark.parametrize("cut", CUTS)
def test_later_cuts_leave_less_and_all_run(case, cut):
    """From the most that is left to nothing; what a step reuses is what a step before kept."""
    pipe, job, image = case
    program = network_of(pipe.unet).lower(pipe.unet)
    assert program.cache_point_names == CUTS
    left = [len(program.bind([program.cache_point(one)]).stages) for one in CUTS]
    assert left == sorted(left, reverse=True) and len(set(left)) == len(CUTS) and left[-1] == 0
    exact = run(pipe, job, Plan(), image)
    near = run(pipe, job, Plan(Slicing(2, 3), guidance="sequential", rehash=Rehash((0, 2, 4), cut)), image)
    again = run(pipe, job, Plan(rehash=Rehash((0, 2, 4), cut)), image)
    assert largest_difference(exact.frames, near.frames) > 0
    assert largest_difference(near.frames, again.frames) <= 1
    full = run(pipe, job, Plan(rehash=Rehash(range(STEPS), cut, 0.5, 0.1)), image)
    assert largest_difference(exact.frames, full.frames) == 0


def test_a_guard_computes_early_and_never_more_rarely(case):
    pipe, job, image = case
    exact, reusing, strict = (
        run(pipe, job, Plan(rehash=rehash), image)
        for rehash in (None, Rehash((0, 4), "last-layer", guard=1e9), Rehash((0, 4), "last-layer", guard=1e-9))
    )
    plain = run(pipe, job, Plan(rehash=Rehash((0, 4), "last-layer")), image)
    assert largest_difference(plain.frames, reusing.frames) == 0
    # Every other step is refreshed, as if the plan had said so.
    planned = run(pipe, job, Plan(rehash=Rehash((0, 2, 4), "last-layer")), image)
    assert largest_difference(planned.frames, strict.frames) == 0
    assert largest_difference(exact.frames, strict.frames) > 0


class _Line:
    """A program of one stage whose value moves with the timestep as it is told."""

    conditions = Conditions(1, 1, {}, {})

    def __init__(self, rehash):
        self.values = iter(())
        value = Stage("kept", "up.0", FRAMES, lambda c, x: x + next(self.values), ("sample",))
        self.program = Program(("sample",), (value, Stage("out", "out", FRAMES, lambda c, x: x, ("kept",))), "out")
        self.memory = FeatureCache(rehash)

    def step(self, timestep, value=None):
        self.values = iter(() if value is None else (value,))
        sample = {"sample": torch.zeros(1, 1, 4, 4)}
        return float(self.memory.execute(Call(self.program, (), sample, self.conditions), timestep).mean())


def test_extrapolation_follows_the_noise_level_and_stops_where_it_misses():
    """In proportion to the timestep, damped; off after a full step that plain reuse would have met better."""
    line = _Line(Rehash((0, 1, 4, 6, 8), "kept", extrapolation=0.5))
    assert [line.step(10.0, 1.0), line.step(9.0, 2.0)] == [1.0, 2.0]
    assert [line.step(8.0), line.step(6.0)] == pytest.approx([2.5, 3.5])
    line.step(4.0, 7.0)  # it would have said 4.5, reuse 2: to be trusted
    assert line.step(3.0) == pytest.approx(7.5)
    line.step(2.0, 7.0)  # it would have said 8: not to be trusted any more
    assert line.step(1.0) == pytest.approx(7.0)


def test_a_failed_step_is_run_again_and_features_are_freed():
    line = _Line(Rehash((0, 2), "kept"))
    line.step(9.0, 1.0)
    with pytest.raises(StopIteration):
        line.memory._rehash, kept = Rehash((0, 1), "kept"), line.memory._rehash
        line.step(8.0)
    assert line.step(8.0, 3.0) == 3.0  # full again, for nothing is kept
    line.memory._rehash = kept
    line.memory.forget()
    assert line.memory._now is None and line.memory._before is None


@pytest.mark.parametrize("cut", ["deepcache", "paper", "prediction"])
@pytest.mark.parametrize("extrapolation", [0.0, 0.5])
def test_kept_features_take_the_memory_that_is_predicted(case, cut, extrapolation):
    """Tensors counted through a whole run, steps that reuse and extrapolate among them."""
    pipe, job, image = case
    plan = Plan(rehash=Rehash((0, 1, 4), cut, extrapolation))
    prediction = predict(pipe, job, plan, device="cpu")
    kept = [stage.kept_bytes for stage in prediction.stages if stage.name.startswith("denoise")]
    assert kept[0] > 0 and (kept[1] > kept[0] if extrapolation else kept[1] == kept[0])
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    with apply(pipe, plan), LiveTensors(networks) as live:
        pipe(**call_arguments(pipe, job, image), output_type="latent")
    denoising = [stage for stage in prediction.stages if stage.name.startswith("denoise")]
    predicted = max(stage.peak_bytes - stage.weights_bytes for stage in denoising)
    assert 0.97 <= predicted / live.peak_bytes <= 1.04


def test_fewer_steps_and_noise_levels_are_the_pipelines_own(case):
    pipe, job, image = case
    fewer = run(pipe, job, Plan(sampler=Sampler(3)), image)
    assert len(fewer.step_seconds) == 3
    same = run(pipe, replace(job, num_inference_steps=3), Plan(), image)
    assert largest_difference(fewer.frames, same.frames) == 0
    levels = Plan(sampler=Sampler.align_your_steps(4, 80.0, 0.002))
    if takes_sigmas(pipe):
        assert len(run(pipe, job, levels, image).step_seconds) == 4
        assert predict(pipe, job, levels, device="cpu").stage("denoise").count == 4
    else:
        with pytest.raises(UnsupportedError, match="noise levels"):
            run(pipe, job, levels, image)


def test_align_your_steps_is_the_published_list():
    levels = Sampler.align_your_steps(10, 700.0, 0.034).sigmas
    assert levels == pytest.approx(AysSchedules["StableDiffusionVideoSigmas"][:-1])
    assert Sampler.align_your_steps(17, 80.0, 0.002).sigmas[::16] == pytest.approx((80.0, 0.002))
