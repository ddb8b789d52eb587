"""Plans are plain data: they survive JSON, compare by value, and refuse what makes no sense in one sentence."""

import json
import pickle
from pathlib import Path

import pytest
from networks import random_plan
from untrained import animatediff

from streamline import Job, Plan, PlanError, Rehash, Sampler, Slicing, apply, predict, trace
from streamline.applying.apply import is_applied
from streamline.plan import slicing_for

SIZE = {"height": 16, "width": 16, "num_frames": 2}
BUNDLED_PLANS = sorted((Path(__file__).parent.parent / "assets" / "plans").glob("*.json"))


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_survives_json_and_pickle(seed):
    plan = random_plan(seed)
    assert Plan.from_json(plan.to_json()) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert hash(Plan.from_dict(plan.to_dict())) == hash(plan)


def test_a_named_block_goes_before_every_block():
    plan = Plan(denoiser={"*": Slicing(2, 2), "up.3": Slicing(7, 5)}, decoder=Slicing(3, 1))
    assert slicing_for(dict(plan.denoiser), "up.3") == Slicing(7, 5)
    assert slicing_for(dict(plan.denoiser), "mid") == Slicing(2, 2)
    assert slicing_for(dict(plan.decoder), "up.3") == Slicing(3, 1)
    assert slicing_for(dict(Plan().denoiser), "mid") == Slicing(1, 1)


def test_every_choice_survives_json_and_reasons_make_no_difference():
    rehash, sampler = Rehash([4, 2, 0], "up.1.attention.0.out", 0.5, 0.2), Sampler(3, [3.0, 2.0, 1.0])
    plan = Plan(residency="model offload", rehash=rehash, sampler=sampler, budget_bytes=2**33, reasons=["it fits"])
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.reasons == plan.reasons and again.rehash.full_steps == (0, 2, 4)
    assert plan == Plan(residency="model offload", rehash=rehash, sampler=sampler, budget_bytes=2**33)


@pytest.mark.parametrize(
    ("plan", "known"),
    [
        (Plan(denoiser={"dwon.0": Slicing(4, 4)}), '"in", "down.N", "mid", "up.N", "out" and "*"'),
        (
            Plan(denoiser={"*": Slicing(2, 2), "layers.3": Slicing(4, 4)}),
            '"in", "down.N", "mid", "up.N", "out" and "*"',
        ),
        (Plan(decoder={"down.0": Slicing(4, 4)}), '"in", "mid", "up.N", "out" and "*"'),
    ],
)
def test_a_block_of_another_network_is_refused_where_a_plan_is_used(plan, known):
    pipe = animatediff()
    job = Job(height=16, width=16, num_frames=2, num_inference_steps=2, prompt="a cat")
    for use in (lambda: apply(pipe, plan), lambda: predict(pipe, job, plan), lambda: trace(pipe, **SIZE, plan=plan)):
        with pytest.raises(PlanError) as error:
            use()
        assert str(error.value).endswith(f", but the blocks of this network are {known}.")
    assert not is_applied(pipe)


def test_deeper_blocks_than_there_are_may_be_named():
    deeper = Plan({"up.9": Slicing(4, 4)}, {"up.9": Slicing(4, 4)})
    with apply(animatediff(), deeper) as applied:
        assert applied.plan == deeper


@pytest.mark.parametrize("path", BUNDLED_PLANS, ids=lambda path: path.stem)
def test_the_bundled_plans_can_be_read(path):
    assert Plan.from_json(path.read_text()) == Plan.from_dict(json.loads(path.read_text()))


def test_there_are_bundled_plans():
    assert BUNDLED_PLANS


@pytest.mark.parametrize(
    "make",
    [
        lambda: Slicing(frames=0),
        lambda: Slicing(pixels=-3),
        lambda: Slicing(frames=2.5),
        lambda: Slicing(frames=True),
        lambda: Slicing(group=0),
        lambda: Plan(guidance="sideways"),
        lambda: Plan(denoiser=4),
        lambda: Plan(denoiser={"mid": 4}),
        lambda: Plan(decoder={3: Slicing()}),
        lambda: Plan(denoiser={"down.": Slicing(4, 4)}),
        lambda: Plan(denoiser={"down.one": Slicing(4, 4)}),
        lambda: Plan(denoiser={"0.down": Slicing(4, 4)}),
        lambda: Plan(decoder={"": Slicing(4, 4)}),
        lambda: Plan(decoder={"down 0": Slicing(4, 4)}),
        lambda: Plan.from_json("{"),
        lambda: Plan.from_json("[]"),
        lambda: Plan.from_json('{"slices": 4}'),
        lambda: Plan.from_json('{"denoiser": 4}'),
        lambda: Plan.from_json('{"denoiser": {"mid": 4}}'),
        lambda: Plan.from_json('{"denoiser": {"mid": {"rows": 4}}}'),
        lambda: Plan(residency="nowhere"),
        lambda: Plan(rehash=3),
        lambda: Plan(budget_bytes=0),
        lambda: Plan(reasons="because"),
        lambda: Rehash((1, 2), "up.0.attention.0.out"),
        lambda: Rehash((), "up.0.attention.0.out"),
        lambda: Rehash((0,), ""),
        lambda: Rehash((0,), "paper", extrapolation=1.5),
        lambda: Rehash((0,), "paper", guard=0),
        lambda: Plan(sampler=5),
        lambda: Sampler(0),
        lambda: Sampler(2, (1.0,)),
        lambda: Sampler(2, (1.0, 2.0)),
        lambda: Plan.from_json('{"sampler": {"sigmas": [1.0]}}'),
        lambda: Plan.from_json('{"rehash": {"full_steps": [0]}}'),
        lambda: Plan.from_json('{"rehash": {"full_steps": 3, "cut": "mid"}}'),
    ],
)
def test_nonsense_is_refused_in_one_sentence(make):
    with pytest.raises(PlanError) as error:
        make()
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence
