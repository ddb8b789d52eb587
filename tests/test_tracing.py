"""Live tensors are counted once each, and full-size networks fit where they should."""

import json
from pathlib import Path

import pytest
import torch
from networks import KINDS
from test_cost import Composed
from torch import nn

import streamline
from streamline import LiveTensors, Plan
from streamline.families.running import run_network

PLANS = Path(__file__).parent.parent / "assets" / "plans"
GIB = 2**30
KILO = 1024 * 4  # bytes of 1024 float32


def test_every_tensor_counts_once_from_birth_to_death():
    with LiveTensors() as memory:
        a = torch.zeros(1024)
        assert memory.live_bytes == KILO
        b = a.view(32, 32).t()
        assert memory.live_bytes == KILO  # a view is not another tensor
        c = b + 1
        assert memory.live_bytes == 2 * KILO
        del a
        assert memory.live_bytes == 2 * KILO  # the view keeps it alive
        del b
        assert memory.live_bytes == KILO
        c.add_(1)
        assert memory.live_bytes == KILO
        del c
    assert memory.live_bytes == 0 and memory.peak_bytes == 2 * KILO


def test_weights_and_their_views_are_no_activations():
    layer = nn.Linear(32, 32, bias=False)
    with torch.no_grad(), LiveTensors([layer]) as memory:
        view = layer.weight.t()
        assert memory.live_bytes == 0
        out = layer(torch.zeros(32, 32))
        assert memory.live_bytes == out.nbytes
    assert memory.weights_bytes == view.nbytes


def test_calls_count_what_computes():
    with LiveTensors(keep_timeline=True) as memory:
        x = torch.zeros(8)
        x.view(2, 4).transpose(0, 1)
        x.mul_(2)
    assert memory.calls == 2 and memory.timeline == [32, 32]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind):
    """After a run only its output is alive, whole or sliced."""
    case = KINDS[kind](11)
    for plan in (Plan(), Plan.uniform(3)):
        with torch.no_grad(), LiveTensors([case.network]) as memory:
            output = case.read(
                run_network(case.network, plan.denoiser, plan.guidance == "sequential", **case.arguments)
            )
            assert memory.live_bytes == output.untyped_storage().nbytes()


@pytest.mark.parametrize("kind", KINDS)
def test_fake_tensors_tell_what_real_ones_need(kind):
    """A trace without data predicts the peak of the same run with data."""
    composed, plan = Composed(KINDS[kind](12)), Plan.uniform(3)
    assert composed.measured(plan) == pytest.approx(composed.traced(plan), rel=0.03)


FULL_SIZE = {  # frames, then GiB of activations allowed: batched, sequential, and decoding
    "svd": (14, 1.3, 0.7, 4.5),
    "svd-xt": (25, 2.3, 1.2, 7.8),
    "animatediff": (16, 1.5, 0.8, 1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", FULL_SIZE)
def test_published_models_fit_at_full_size(model):
    """576x1024 in float16, by the bundled plans; the coarse one costs few operator calls."""
    frames, batched, sequential, decode = FULL_SIZE[model]

    def traced(plan):
        return streamline.trace(model, height=576, width=1024, num_frames=frames, plan=plan)

    original, coarse = traced(None), traced(_plan("coarse"))
    for name, most in (("fine-batched", batched), ("fine-sequential", sequential)):
        traces = traced(_plan(name))
        assert traces["denoiser"].peak_bytes <= most * GIB
        assert traces["decoder"].peak_bytes <= decode * GIB
    assert coarse["denoiser"].peak_bytes <= 0.6 * original["denoiser"].peak_bytes
    assert coarse["denoiser"].calls <= 1.5 * original["denoiser"].calls


def _plan(name):
    return Plan.from_dict(json.loads((PLANS / f"{name}.json").read_text()))
