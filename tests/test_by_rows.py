"""Values kept row by row, in host memory or not: the same numbers, in less memory, as predicted."""

import random
from dataclasses import replace

import pytest
import torch
from networks import KINDS, random_plan
from test_cost import Composed

from streamline import LiveTensors, Plan, Slicing
from streamline.families.running import run_network
from streamline.program.axes import PIXELS
from streamline.program.moments import Moments, measure
from streamline.program.rows import Rows


def sparing(seed: int) -> Plan:
    """A random plan whose blocks keep their values in every way there is."""
    rng = random.Random(seed)
    plan = random_plan(seed)
    blocks = {"*": Slicing(3, 3, keep="rows"), **dict(plan.denoiser)}
    blocks = {
        name: Slicing(one.frames, one.pixels, one.group, rng.choice(["rows", "rows", "host", "whole"]))
        for name, one in blocks.items()
    }
    return Plan(denoiser=blocks, guidance=plan.guidance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_keeping_by_rows_gives_the_original_result(kind, seed, record_property):
    case, plan = KINDS[kind](seed), sparing(seed)
    expected = case.original()
    with torch.no_grad():
        result = case.read(run_network(case.network, plan.denoiser, plan.guidance == "sequential", **case.arguments))
    error = ((result - expected).abs().max() / expected.abs().max()).item()
    record_property(f"error: {kind} kept by rows, relative, float32", error)
    assert error <= 1e-5


@pytest.mark.parametrize("kind", ["temporal_decoder"])
def test_keeping_by_rows_takes_less(kind):
    case = next(case for case in map(KINDS[kind], range(99)) if len(case.network.up_blocks) == 3)
    arguments = {**case.arguments, "sample": torch.randn(8, 4, 12, 20)}
    if kind == "temporal_decoder":
        arguments |= {"image_only_indicator": torch.zeros(1, 8), "num_frames": 8}
    peaks = []
    for keep in ("whole", "rows"):
        with torch.no_grad(), LiveTensors([case.network]) as memory:
            run_network(case.network, Plan(Slicing(8, 24, keep=keep)).denoiser, False, **arguments)
        peaks.append(memory.peak_bytes)
    assert peaks[1] < 0.9 * peaks[0]


@pytest.mark.parametrize("seed", range(5))
def test_moments_of_slices_are_those_of_the_whole(seed):
    torch.manual_seed(seed)
    norm = torch.nn.GroupNorm(4, 8)
    images = torch.randn(6, 8, 35, 1) * 3 + 100
    moments = Moments(norm, batch=2)
    for part in images.split([1, 20, 9, 5], dim=2):
        moments.add(part)
    video = images.unflatten(0, (2, 3)).transpose(1, 2)
    found, expected = moments.applied()(video), measure(norm, images, 2, 3)(video)
    assert (found - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_the_composed_peak_is_the_measured_one(kind, seed, record_property):
    composed = Composed(KINDS[kind](seed))
    plan = Plan({name: replace(one, keep=one.keep.replace("host", "rows")) for name, one in sparing(seed).denoiser})
    ratio = composed.cost(plan).peak_bytes / composed.measured(plan)
    record_property(f"error: composed to measured peak of values kept by rows, {kind}", abs(ratio - 1))
    assert 0.99 <= ratio <= 1.03


@pytest.mark.gpu
def test_values_that_are_still_on_their_way_to_the_host_are_waited_for():
    device = torch.device("cuda")
    images = torch.randn(3, 8, 16, 16, device=device)
    rows = Rows(device, on_host=True)
    for image in images.split(1):
        torch.cuda._sleep(10**8)  # some hundredths of a second, so that the copy is far from done
        rows.add(image)
    read = rows.read(PIXELS, 3, 40)
    assert torch.equal(read.squeeze(3), images.flatten(2)[:, :, 3:40])
