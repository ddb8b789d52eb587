"""The same numbers as untouched diffusers, on random small networks of every kind under random plans."""

import pytest
import torch
from networks import KINDS, random_plan

from streamline.families.networks import network_of
from streamline.families.running import run_network
from streamline.program.moments import measure

TOLERANCE = 1e-5
CASES = [(kind, seed) for kind in KINDS for seed in range(30)]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_a_random_plan_gives_the_original_result(kind, seed, record_property):
    case, plan = KINDS[kind](seed), random_plan(seed)
    expected = case.original()
    with torch.no_grad():
        result = run_network(case.network, plan.denoiser, plan.guidance == "sequential", **case.arguments)
    result = case.read(result)
    assert result.shape == expected.shape
    error = ((result - expected).abs().max() / expected.abs().max()).item()
    record_property(f"error: {kind}, relative, float32", error)
    assert error <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(200, 205))
def test_what_differs_is_rounding(kind, seed, record_property):
    """In float64 the difference all but vanishes: the arithmetic is the same, only its order is not."""
    case, plan = KINDS[kind](seed).double(), random_plan(seed)
    expected = case.original()
    with torch.no_grad():
        result = case.read(run_network(case.network, plan.denoiser, plan.guidance == "sequential", **case.arguments))
    error = ((result - expected).abs().max() / expected.abs().max()).item()
    record_property(f"error: {kind}, relative, float64", error)
    assert error <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [100, 101])
def test_a_stage_keeps_what_it_changes_within_its_slice(kind, seed):
    """Tag test: another frame (or pixel) goes in, and only that frame (or pixel) comes out changed."""
    case = KINDS[kind](seed)
    program = network_of(case.network).lower(case.network)
    tagged = 0

    def execute(values, conditions):
        nonlocal tagged
        for stage in program.stages:
            reads = [stage.axis.whole(values[name]) for name in stage.reads]
            norm = () if stage.norm is None else (_frozen(stage.norm, reads[0], conditions.batch),)
            result = stage.run(*norm, conditions, *reads)
            values[stage.name] = stage.axis.unslice(result, values[stage.reads[0]])
            index = torch.randint(stage.axis.extent(values[stage.reads[0]].shape), ()).item()
            changed = stage.run(*norm, conditions, *(_tag(stage.axis, read, index) for read in reads))
            moved = _changed_slices(stage.axis, changed - result)
            assert moved == {index}, f"{stage.name}: slice {index} went in, {sorted(moved)} came out"
            tagged += 1
        return values[program.output]

    with torch.no_grad():
        output = case.read(network_of(case.network).forward(case.network, execute, **case.arguments))
    assert tagged == len(program.stages) > 0
    assert (output - case.original()).abs().max() <= TOLERANCE * output.abs().max()


def _frozen(norm, images, batch):
    """The norm with the moments it has now, so that a tag cannot spread through them."""
    return measure(norm, images, batch, slices=1)


def _tag(axis, value, index):
    value = value.clone()
    part = value[index] if axis.cuts_rows else value[:, index] if value.ndim == 3 else value[:, :, index]
    part.add_(torch.randn_like(part))
    return value


def _changed_slices(axis, difference):
    dim = 0 if axis.cuts_rows else 1 if difference.ndim == 3 else 2
    others = [d for d in range(difference.ndim) if d != dim]
    return set(difference.abs().amax(dim=others).nonzero().flatten().tolist())
