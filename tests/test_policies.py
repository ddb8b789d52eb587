"""When steps are full, as policies say; and how a plan for a quality comes from what was calibrated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import untrained
from hypothesis import given
from hypothesis import strategies as st

from streamline import Device, InputError, Job, Plan, PlanError, Rates, Rehash, Sampler
from streamline.cost.pipeline_cost import PipelineCost
from streamline.cost.predicting import ExecutionTarget, predict
from streamline.families.naming import scheduler_key
from streamline.families.subjects import subject_of
from streamline.planning.calibrations import Calibration, Option, StepCost, find_calibration, keep
from streamline.planning.planner import Request, candidates, choose
from streamline.planning.policies import FEW_STEPS, Fixed, Paper, Uniform

RATES = Rates(flops={"float32": 1e12}, bandwidth=1e11, launch_seconds=5e-6, source="published")
TARGET = ExecutionTarget(Device("cpu", 0, "a processor", 2**36, 2**36, 0, 0, ("float32",)), RATES)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99), st.floats(0, 1), st.sets(st.integers(0, 50)))
def test_the_first_and_the_last_step_are_full_and_few_steps_are_left_alone(steps, every, seed, threshold, chosen):
    similarity = tuple(map(tuple, np.random.default_rng(seed).random((steps, steps)).tolist()))
    policies = {Uniform(every): steps, Fixed(tuple(chosen)): steps, Paper(similarity, threshold): steps}
    for policy, count in policies.items():
        rehash = policy.rehash(count)
        if rehash is not None:
            assert {0, count - 1} <= set(rehash.full_steps) < set(range(count)) and count > FEW_STEPS


def test_uniform_is_evenly_spaced():
    assert Uniform(2).rehash(25).full_steps == tuple(range(0, 25, 2))
    assert Uniform(3, "paper").rehash(25) == Rehash((0, 3, 6, 9, 12, 15, 18, 21, 24), "paper")
    for full in range(2, 25):
        assert len(Uniform.of(25, full).rehash(25).full_steps) == full
    with pytest.raises(InputError, match="not 26"):
        Uniform.of(25, 26)


def test_the_papers_algorithm_compares_with_the_last_full_step():
    """Similarity falls with distance: below the threshold from three steps on, so every third step is full."""
    similarity = [[1 - abs(i - j) / 10 for j in range(10)] for i in range(10)]
    assert Paper(similarity, 0.75).rehash(10).full_steps == (0, 3, 6, 9)
    assert Paper(similarity, 0.75, start=2, end=3).rehash(10).full_steps == (0, 1, 4, 7, 8, 9)
    assert Paper.of(similarity, 5).rehash(10).full_steps == (0, 3, 6, 9)
    assert Paper.of(similarity, 9).rehash(10).count_full(10) <= 9
    with pytest.raises(InputError, match="of 10 steps, not of 25"):
        Paper(similarity, 0.75).rehash(25)


OPTIONS = (
    Option(Rehash(range(0, 25, 2), "paper"), None, 0.05, 0.03),
    Option(Rehash((*range(0, 25, 2), 23), "last-layer", 0.75), None, 0.02, 0.01),
    Option(Rehash((0, 3, 6, 24), "last-layer"), None, 0.2, 0.1),
    Option(None, Sampler(8), 0.1, 0.1),
    Option(None, Sampler(13, tuple(float(level) for level in range(13, 0, -1))), 0.04, 0.04),
)


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    pipe = untrained.animatediff()
    return PipelineCost(subject_of(pipe), Job(height=48, width=64, num_frames=4), tmp_path_factory.mktemp("costs"))


@pytest.fixture
def calibrated(costs, tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMLINE_CACHE", str(tmp_path))
    model, scheduler = costs.subject.known_as
    found = Calibration(model, scheduler, 25, 8, OPTIONS, ((1.0, 0.5), (0.5, 1.0)), (StepCost("paper", 0.3, 0.4),))
    return found, keep(found)


def test_a_calibration_is_found_by_model_scheduler_and_steps(costs, calibrated):
    found, path = calibrated
    model, scheduler = costs.subject.known_as
    assert find_calibration(model, scheduler, 25) == found
    for other in (("another", scheduler, 25), (model, f"{scheduler} trailing", 25), (model, scheduler, 24)):
        assert find_calibration(*other) is None
    pipe = untrained.animatediff()
    assert scheduler_key(pipe.scheduler) == scheduler
    path.write_text(path.read_text().replace('"full_steps"', '"half_steps"'))
    assert find_calibration(model, scheduler, 25) is None
    with pytest.raises(PlanError, match="no calibration"):
        Calibration.from_dict({"options": [{"rehash": None}]})


def test_the_best_of_some_full_steps(calibrated):
    found, _ = calibrated
    assert found.best(14) is not None and found.best(14).rehash.cut == "last-layer"
    assert found.best(13) == OPTIONS[0] and found.best(13, "last-layer") == OPTIONS[2]
    assert OPTIONS[3].plan(Plan.uniform(2)) == replace(Plan.uniform(2), sampler=Sampler(8))
    with pytest.raises(PlanError, match="2 full steps"):
        found.best(2)


def _tuned(costs, quality):
    known = candidates(Request(costs, TARGET, quality))
    return choose(known, Request(costs, TARGET, quality), known[0].prediction.peak_bytes)


def test_a_quality_takes_the_least_error_in_its_time_and_says_why(costs, calibrated):
    original = predict(costs, Plan(), TARGET).seconds
    balanced, fast = _tuned(costs, "balanced"), _tuned(costs, "fast")
    seconds = {option: predict(costs, option.plan(Plan()), TARGET).seconds for option in OPTIONS}
    limit = seconds[OPTIONS[0]]  # the paper's
    least = min((option for option in OPTIONS if seconds[option] <= limit), key=lambda option: option.error)
    assert (balanced.plan.rehash, balanced.plan.sampler) == (least.rehash, least.sampler)
    assert predict(costs, balanced.plan, TARGET).seconds < original
    half = [option for option in OPTIONS if seconds[option] <= 0.5 * original]
    least = min(half, key=lambda option: option.error)
    assert (fast.plan.rehash, fast.plan.sampler) == (least.rehash, least.sampler)
    assert any(least.label in line and "%" in line for line in fast.plan.reasons)
    assert _tuned(costs, "exact").plan.is_exact


def test_without_a_calibration_the_default_is_stated(costs, tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMLINE_CACHE", str(tmp_path))
    for quality, every in (("balanced", 2), ("fast", 3)):
        plan = _tuned(costs, quality).plan
        assert plan.rehash == Uniform(every).rehash(25) and any("default" in line for line in plan.reasons)


def test_models_of_few_steps_are_left_alone(costs, tmp_path):
    few = PipelineCost(costs.subject, replace(costs.job, num_inference_steps=8), tmp_path)
    plan = _tuned(few, "fast").plan
    assert plan.is_exact and any("only 8 steps" in line for line in plan.reasons)


def test_torch_is_not_asked_to_wait_between_steps():
    """Extrapolation and its check stay on the device: on meta tensors any look at a value would fail."""
    from streamline.applying.reuse import CachedFeature, _is_better, _weight

    with torch.device("meta"):
        kept = [CachedFeature.of([torch.empty(2, 3, 8, 8)], torch.empty(()), judged=True) for _ in range(3)]
        trust = _is_better(*kept, 0.5)
        assert _weight(kept[0], kept[1], torch.empty(()), 0.5, trust).is_meta
