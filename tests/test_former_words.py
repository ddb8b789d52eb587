"""What was written with the words of the version before is still understood."""

import argparse
import json
from dataclasses import replace

import pytest
import untrained

import streamline
from streamline import Job, Plan, PlanError, Receipt, Source
from streamline.commands.plan_options import add_plan_options, plan_of
from streamline.plan import FORMER


@pytest.mark.parametrize(
    ("name", "former", "now"), [(n, *pair) for n, pairs in FORMER.items() for pair in pairs.items()]
)
def test_former_values_of_a_plan_are_taken(name, former, now):
    plan = Plan(**{name: now})
    assert Plan(**{name: former}) == plan == replace(Plan(), **{name: former}) and getattr(plan, name) == now
    data = plan.to_dict()
    assert data[name] == now and Plan.from_json(json.dumps(data | {name: former})) == plan


def test_a_value_of_another_field_is_refused():
    for other in ({"guidance": "all"}, {"residency": "apart"}, {"guidance": ["apart"]}, {"residency": None}):
        with pytest.raises(PlanError):
            Plan(**other)


def test_the_command_line_takes_both():
    parser = argparse.ArgumentParser()
    add_plan_options(parser)
    for former, now in FORMER["guidance"].items():
        asked = [plan_of(parser.parse_args(["--guidance", value])) for value in (former, now)]
        assert asked[0] == asked[1] and asked[0].guidance == now
    assert "together" not in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--guidance", "sideways"])


def test_former_arguments_of_apply_and_of_receipts_are_taken():
    pipe = untrained.animatediff()
    pipe.set_progress_bar_config(disable=True)
    told = []
    former = {
        "before_slice": lambda: told.append("slice"),
        "around_step": lambda run, *args, **kwargs: run(*args, **kwargs),
    }
    with streamline.apply(pipe, Plan.uniform(2), on_rung=told.append, memory=None, **former):
        pipe("a cat", num_frames=2, height=32, width=32, num_inference_steps=1)
    assert told and set(told) == {"slice"}
    with pytest.raises(TypeError, match="around_slice"):
        streamline.apply(pipe, Plan(), around_slice=print)
    result = streamline.run(
        pipe, Job.for_model(pipe, prompt="a", num_frames=2, height=32, width=32, num_inference_steps=1)
    )
    now = Receipt.of(pipe, result, source=Source("animatediff", {"base": "a/b"}))
    assert replace(Receipt.of(pipe, result, model="animatediff", base="a/b", motion_adapter=None), date=now.date) == now
    assert Receipt.of(pipe, result, model=None, base=None).model == Receipt.of(pipe, result).model
    with pytest.raises(TypeError, match="wheel"):
        Receipt.of(pipe, result, wheel="a/b")


def test_former_names_are_the_same_things():
    assert streamline.draft_of is streamline.temporary_path
    assert streamline.clear_drafts is streamline.clear_temporary_files
    assert streamline.Tightened is streamline.PlanDowngraded
