"""A step may reuse what the step before kept: nothing changes without it, little with it, and nothing stays behind."""

import pytest
import torch
import untrained
from PIL import Image

from streamline import Job, Plan, PlanError, Rehash, Slicing, apply, run
from streamline.execution.networks import family_of
from streamline.execution.cuts import CUTS, find_cut
from streamline.execution.rehash import Memory
from streamline.output.metrics import largest_difference

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
    return Rehash(full_steps, find_cut(family_of(pipe.unet).lower(pipe.unet)))


@pytest.mark.parametrize("guidance", ["together", "apart"])
def test_all_steps_in_full_change_nothing(case, guidance):
    pipe, job, image = case
    plans = [Plan(Slicing(3, 2), guidance=guidance, rehash=rehash) for rehash in (None, _rehash(pipe, range(STEPS)))]
    exact, kept = (run(pipe, job, plan, image) for plan in plans)
    assert largest_difference(exact.frames, kept.frames) == 0


def test_halves_apart_keep_features_of_their_own(case):
    pipe, job, image = case
    rehash = _rehash(pipe, (0, 2, 4))
    results = [run(pipe, job, Plan(guidance=guidance, rehash=rehash), image) for guidance in ("together", "apart")]
    assert largest_difference(*(result.frames for result in results)) <= 1
    sliced = run(pipe, job, Plan(Slicing(2, 3), guidance="apart", rehash=rehash), image)
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


def test_memory_is_freed():
    memory = Memory(Rehash((0, 2), "x"))
    memory._features.append(torch.zeros(1))
    memory.forget()
    assert memory._features == []
