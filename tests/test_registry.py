"""The registry of families: who is asked about what, and families that come from elsewhere."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import untrained

import streamline
from streamline import Family, Field, InputError, Job, ModelError, Source, UnsupportedError, registry
from streamline.families.naming import model_of
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


def test_two_families_cannot_mean_different_things_by_one_field(own_registry):
    class Rival(Other):
        name = "rival"
        fields = (Field("wobble", int, 3),)

    streamline.register_family(Other())
    with pytest.raises(ModelError, match="field 'wobble' unlike that of rival"):
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


def test_a_source_is_flat_json_and_a_pipeline_remembers_it():
    source = Source("animatediff", {"base": "a/b", "motion_adapter": ""})
    assert source.to_dict() == {"name": "animatediff", "base": "a/b"} and source.part("motion_adapter") is None
    assert Source.from_dict({"name": "x", "base": "", "motion_adapter": "c/d"}).parts == (("motion_adapter", "c/d"),)
    assert Source.from_dict(source.to_dict()) == source
    pipe = untrained.animatediff()
    assert source_of(pipe).name == "AnimateDiffPipeline" and model_of(pipe) is None
    remember_source(pipe, Source("animatediff"))
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
