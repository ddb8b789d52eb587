"""The registry of families: who is asked about what, and families that come from elsewhere."""

import importlib
import os
import subprocess
import sys
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import pytest
import untrained
from diffusers import AnimateDiffPipeline, UNetMotionModel
from test_page import FORM

import streamline
from streamline import Family, Field, Half, InputError, Job, ModelError, Receipt, Source, UnsupportedError, registry
from streamline.cache import digest_of_modules
from streamline.cli import _parser
from streamline.families.base import Network
from streamline.families.naming import all_halves, model_of
from streamline.fields import COMMON
from streamline.source import remember_source, source_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    registry.families()
    monkeypatch.setattr(registry, "_families", dict(registry._families))


class Other(Family):
    """A family with a field of its own."""

    name = "other"
    pipelines = ()
    networks = ()
    fields = (Field("wobble", float, 0.5, most=1, label="Wobble", option="--wobble", help="how much it wobbles"),)


def test_every_family_that_ships_says_what_is_asked_of_it():
    found = registry.families()
    assert [family.name for family in found[:2]] == ["animatediff", "svd"]
    for family in found:
        assert {family.autoencoder, *family.denoisers} <= set(family.components)
        assert set(family.working) <= set(family.components)
        assert len({field.name for field in family.fields}) == len(family.fields)
        for model in family.models:
            Job.from_dict({"height": 8, "width": 8, "num_frames": 1} | dict(model.job))
            assert {name for name, _ in model.parts} <= {half.name for half in family.halves}
            assert model.label and model.sizes and (model.configs is None) is model.is_small
            assert model.configs is None or {*family.denoisers, family.autoencoder} <= set(model.configs)


def test_a_pipeline_is_of_the_family_that_names_its_class_and_of_no_other():
    for make, name in ((untrained.svd, "svd"), (untrained.animatediff, "animatediff")):
        pipe = make()
        assert registry.family_of(pipe).name == registry.family_of(type(pipe).__name__).name == name
    with pytest.raises(UnsupportedError, match="StableDiffusionPipeline cannot be streamlined; these can: AnimateDiff"):
        registry.family_of(untrained.image_model())
    with pytest.raises(UnsupportedError, match="no model family 'none'"):
        registry.family_named("none")


def test_a_field_of_a_new_family_is_a_job_s_at_once(own_registry):
    with pytest.raises(InputError, match="no field 'wobble'"):
        Job(height=64, width=64, num_frames=2, wobble=0.1)
    streamline.register_family(Other())
    job = Job(height=64, width=64, num_frames=2, wobble=0.1)
    assert job.wobble == 0.1 and Job.from_json(job.to_json()) == job and job.to_dict()["wobble"] == 0.1
    assert Job(height=64, width=64, num_frames=2).wobble == 0.5  # its default, which is not written down
    with pytest.raises(InputError, match="wobble must be a number of 0 to 1, not 2"):
        Job(height=64, width=64, num_frames=2, wobble=2)
    pipe = untrained.animatediff()
    registry.family_of(pipe).arguments(pipe, Job(height=64, width=64, num_frames=2, prompt="a cat", wobble=0.5), None)
    with pytest.raises(InputError, match="has no wobble"):
        registry.family_of(pipe).arguments(pipe, Job(height=64, width=64, num_frames=2, prompt="a", wobble=0.1), None)


def test_equal_jobs_are_told_alike_however_they_were_written(own_registry):
    streamline.register_family(Other())
    job = Job(64, 72, 2, "a cat", "rain", 30, 5.0, 3, 12)
    assert (job.prompt, job.negative_prompt, job.num_inference_steps, job.guidance_scale) == ("a cat", "rain", 30, 5.0)
    assert (job.height, job.width, job.num_frames, job.seed, job.fps) == (64, 72, 2, 3, 12)
    same = replace(job, wobble=0.5)  # its default
    assert same == job and hash(same) == hash(job) and same.to_json() == job.to_json()
    assert replace(job, wobble=0.25) != job and replace(replace(job, wobble=0.25), seed=4).wobble == 0.25
    for values, given in (((64, 72, 2, *["x"] * 7), {}), ((64, 72, 2, "x"), {"prompt": "y"}), ((64, 72), {})):
        with pytest.raises(TypeError):
            Job(*values, **given)


def family_that_says(name, **said):
    return type("Said", (Family,), {"name": name, "pipelines": (), "networks": ()} | said)()


def part(name):
    return Half(name, "A part", "organisation/name", "the part")


def run_otherwise(module):
    raise AssertionError("never called")


CLASHES = {
    "a field twice, unlike": {"fields": (Field("spin", int, 1), Field("spin", int, 2))},
    "an option of another field": {"fields": (Field("spin", int, 1, option="--wobble"),)},
    "a short name of a common field": {"fields": (Field("spin", int, 1, short="frames"),)},
    "an option of a command": {"fields": (Field("spin", int, 1, option="--from-receipt"),)},
    "a field that is a part": {"fields": (Field("motion_adapter", str, ""),)},
    "a field that is its own part": {"fields": (Field("spin", str, ""),), "halves": (part("spin"),)},
    "a part twice": {"halves": (part("spin"), part("spin"))},
    "a part that is a field": {"halves": (part("wobble"),)},
    "a pipeline of another family": {"pipelines": (AnimateDiffPipeline,)},
    "a network that is run otherwise": {
        "networks": (Network(UNetMotionModel, run_otherwise, run_otherwise, run_otherwise),)
    },
}


@pytest.mark.parametrize("said", CLASHES.values(), ids=CLASHES)
def test_what_means_something_else_already_is_refused_and_nothing_changes(own_registry, said):
    streamline.register_family(Other())
    before = registry.families()
    with pytest.raises(ModelError, match=r"^The family rival cannot be registered: .*\.$"):
        streamline.register_family(
            type("Rival", (Family,), {"name": "rival", "pipelines": (), "networks": ()} | said)()
        )
    assert registry.families() == before


def test_no_field_or_part_can_take_a_name_that_is_used_for_something_else():
    """Walks over all that names stand beside: options of commands, keys of receipts and sources, fields of the form."""
    used = {name for name in vars(Job) if not name.startswith("_")} | {item.name for item in fields(Receipt)}
    used |= {item.name for item in fields(Source)} | {item.name for item in fields(Job)} | set(FORM)
    commands = next(action for action in _parser()._actions if action.dest == "command" or action.choices)
    for name in ("generate", "compare", "plan", "frontier"):
        actions = commands.choices[name]._actions
        used |= {text.lstrip("-").replace("-", "_") for action in actions for text in action.option_strings}
        used |= {action.dest for action in actions}
    known = {key for field in (*registry.own_fields().values(), *COMMON) for key in registry._keys(field)}
    assert used - known - set(all_halves()) - {"h"} - registry.RESERVED == set()


def test_a_pipeline_is_of_the_family_of_its_nearest_class(own_registry):
    class Nearer(AnimateDiffPipeline):
        pass

    assert registry.family_of(Nearer.__new__(Nearer)).name == "animatediff"
    streamline.register_family(family_that_says("own", pipelines=(Nearer,)))
    assert registry.family_of(Nearer.__new__(Nearer)).name == "own"


def test_two_families_cannot_mean_different_things_by_one_field(own_registry):
    class Rival(Other):
        name = "rival"
        fields = (Field("wobble", int, 3),)

    streamline.register_family(Other())
    with pytest.raises(ModelError, match=r"family rival cannot .* field 'wobble' is taken"):
        streamline.register_family(Rival())
    streamline.register_family(Other())  # again, in its own place
    assert [family.name for family in registry.families()].count("other") == 1


PLUGIN = """
from streamline import Family, Field

class Plugged(Family):
    name = "plugged"
    pipelines = ()
    networks = ()
    fields = (Field("spin", int, 1, most=9),)

FAMILY = Plugged()
"""


def test_installed_packages_bring_families_and_broken_ones_stop_nobody(tmp_path):
    (tmp_path / "plugged.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("raise RuntimeError('torn')")
    for name, value in (("plugged", "plugged:FAMILY"), ("broken", "broken:FAMILY")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[streamline.families]\n{name} = {value}\n")
    script = """
        import logging
        logging.basicConfig()
        from streamline import Job
        from streamline.registry import families
        print([family.name for family in families()], Job(height=8, width=8, num_frames=1, spin=2).spin)
    """
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "['animatediff', 'svd', 'plugged'] 2", done.stderr
    assert "the family broken could not be loaded: torn" in done.stderr


def test_families_are_loaded_once_whoever_asks_first():
    script = """
        import threading
        from streamline import registry
        registry._families.clear()
        registry._state["loaded"] = False
        import sys
        for name in [name for name in sys.modules if name.startswith("streamline.families.svd")]:
            del sys.modules[name]
        del sys.modules["streamline.families"]
        seen = []
        threads = [threading.Thread(target=lambda: seen.append(len(registry.families()))) for _ in range(8)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        print(set(seen))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "{2}", done.stdout + done.stderr


def test_what_was_measured_by_a_family_is_not_taken_once_its_code_is_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "alone.py").write_text("x = 1\n")
    (tmp_path / "packed").mkdir()
    for name in ("__init__", "family", "layers"):
        (tmp_path / "packed" / f"{name}.py").write_text("x = 1\n")
    for name, changed in (("alone", "alone.py"), ("packed.family", "packed/layers.py")):
        importlib.import_module(name)
        before = digest_of_modules([name])
        (tmp_path / changed).write_text("x = 2\n")
        assert digest_of_modules([name]) != before
    assert {"streamline.families.svd", "streamline.families.svd.unet"} <= registry.family_named("svd").modules()


def test_a_source_is_flat_json_and_a_pipeline_remembers_it():
    source = Source("animatediff", {"base": "a/b", "motion_adapter": ""})
    assert source.to_dict() == {"name": "animatediff", "base": "a/b"} and source.part("motion_adapter") is None
    assert Source.from_dict({"name": "x", "base": "", "motion_adapter": "c/d"}).parts == (("motion_adapter", "c/d"),)
    assert Source.from_dict(source.to_dict()) == source
    pipe = untrained.animatediff()
    assert source_of(pipe).name == "AnimateDiffPipeline" and model_of(pipe) is None
    remember_source(pipe, Source("animatediff"))
    for wrong in ({"name": 3}, {"name": "x", "base": ["a"]}):
        with pytest.raises(InputError, match="by names, hub ids or folders"):
            Source.from_dict(wrong)
    assert source_of(pipe) == Source("animatediff") and model_of(pipe).name == "animatediff"
    remember_source(pipe, source)
    assert model_of(pipe) is None  # of another image model
    loaded = streamline.load("tiny-svd", device="cpu")
    assert source_of(loaded) == Source("tiny-svd") and model_of(loaded).name == "tiny-svd"


def test_what_no_model_has_cannot_be_taken_from_elsewhere():
    with pytest.raises(InputError, match="No model has a part called 'wheel'"):
        streamline.load("tiny-svd", wheel="a/b")


def test_sizes_and_lengths_that_a_model_does_not_make_are_refused():
    class Causal(type(registry.family_named("animatediff"))):
        name, side_multiple, frame_step = "causal", 16, 4

    pipe, family = untrained.animatediff(), Causal()
    family.check(pipe, Job(height=32, width=48, num_frames=9))
    with pytest.raises(InputError, match="height must be a multiple of 16"):
        family.check(pipe, Job(height=40, width=48, num_frames=9))
    with pytest.raises(InputError, match="1 frame more than a multiple of 4, not 8"):
        family.check(pipe, Job(height=32, width=48, num_frames=8))
