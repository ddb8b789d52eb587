"""Programs are checked when they are built, and what nobody needs is dropped."""

import random

import pytest
import torch
from networks import KINDS, random_plan

from streamline import LiveTensors, PlanError, UnsupportedError
from streamline.families.networks import network_of
from streamline.families.running import run_network
from streamline.plan import Plan, Slicing, slicing_for
from streamline.program.executor import Executor
from streamline.program.groups import group_stages
from streamline.program.slicing import bounds
from streamline.program.stages import Builder


def test_a_value_must_be_written_before_it_is_read():
    p = Builder(inputs=("sample",))
    p.frames("a", lambda c, x: x + 1, "b")
    with pytest.raises(ValueError, match="before it is written"):
        p.build("a")


def test_a_value_is_written_once():
    p = Builder(inputs=("sample",))
    p.frames("a", lambda c, x: x + 1, "sample")
    p.frames("a", lambda c, x: x + 1, "sample")
    with pytest.raises(ValueError, match="written twice"):
        p.build("a")


def test_the_output_must_be_written():
    with pytest.raises(ValueError, match="No stage writes"):
        Builder(inputs=("sample",)).build("nothing")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_binding_a_value_keeps_the_result_and_drops_what_led_to_it(kind, seed):
    """Any value may be given from outside: the stages left over still compute the same output from it."""
    case = KINDS[kind](seed)
    whole = network_of(case.network).lower(case.network)
    rng = random.Random(seed)
    name = rng.choice(whole.stages[:-1]).name
    plan = random_plan(seed)

    def execute(values, conditions):
        expected = Executor(whole, Plan().denoiser)(values, conditions)
        upstream = Executor(type(whole)(whole.inputs, whole.stages, name), Plan().denoiser)(values, conditions)
        rest = whole.bind([name])
        assert name in rest.inputs and name not in {stage.name for stage in rest.stages}
        assert len(rest.stages) < len(whole.stages)
        given = {key: value for key, value in ({name: upstream} | values).items() if key in rest.inputs}
        before = {key: value.clone() for key, value in given.items()}
        # Twice, from the same values: a value that was given is never written over.
        for _ in range(2):
            result = Executor(rest, plan.denoiser)(given, conditions)
            assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert all(torch.equal(given[key], before[key]) for key in given)
        return expected

    with torch.no_grad():
        network_of(case.network).forward(case.network, execute, **case.arguments)


def test_a_program_bound_to_its_output_has_nothing_left_to_do():
    case = KINDS["motion_unet"](0)
    program = network_of(case.network).lower(case.network)
    assert program.bind([program.output]).stages == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_groups_keep_order_axis_norms_and_limits(kind, seed):
    case, plan = KINDS[kind](seed), random_plan(seed)
    program = network_of(case.network).lower(case.network)
    groups = group_stages(program, plan.denoiser)
    assert [stage for group in groups for stage in group.stages] == list(program.stages)
    alive = set(program.inputs)
    for group in groups:
        assert {stage.axis for stage in group.stages} == {group.axis}
        assert all(stage.norm is None for stage in group.stages[1:])
        assert set(group.reads) <= alive
        alive = alive - group.dead | set(group.writes)
        for position, stage in enumerate(group.stages):
            limit = slicing_for(dict(plan.denoiser), stage.block).group
            assert limit is None or position < limit
    assert alive - set(program.inputs) == {program.output}


@pytest.mark.parametrize(("size", "slices"), [(1, 1), (1, 9), (7, 3), (25, 4), (14, 14), (14, 99)])
def test_slices_cover_an_axis_evenly(size, slices):
    pieces = bounds(size, slices)
    lengths = [stop - start for start, stop in pieces]
    assert [index for start, stop in pieces for index in range(start, stop)] == list(range(size))
    assert len(pieces) == min(size, slices) and max(lengths) - min(lengths) <= 1


def test_longer_groups_need_less_memory():
    """Slicing without grouping puts every stage's output together again; grouping does not."""
    case = KINDS["image_decoder"](3)
    peaks = []
    for limit in (1, None):
        with torch.no_grad(), LiveTensors([case.network]) as memory:
            run_network(case.network, Plan(decoder=Slicing(99, 99, limit)).decoder, False, **case.arguments)
        peaks.append(memory.peak_bytes)
    assert peaks[1] < peaks[0]


def test_cache_points_are_named_where_a_network_is_lowered():
    p = Builder(inputs=("sample",))
    p.frames("a", lambda c, x: x + 1, "sample")
    p.frames("b", lambda c, x: x + 1, "a")
    program = p.build("b", {"early": "a"})
    assert program.cache_point_names == ("early", "prediction")
    assert [program.cache_point(name) for name in ("early", "a", "prediction")] == ["a", "a", "b"]
    with pytest.raises(PlanError, match="'late'"):
        program.cache_point("late")
    with pytest.raises(UnsupportedError, match="no point"):
        p.build("b").cache_point("early")
    with pytest.raises(ValueError, match="cache point 'early'"):
        p.build("b", {"early": "c"})
