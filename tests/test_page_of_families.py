"""A family registered from outside is on the page by itself, with its models, fields and halves; ui/ knows none."""

import ast
import json
from pathlib import Path

import gradio as gr
import pytest
from diffusers import AnimateDiffPipeline
from test_layers import knowing
from test_page import FORM
from test_restoring import file_of
from test_tabs import ORDER, PLAN, SETTINGS, receipt_of, result_of

import streamline
import ui
from streamline import Family, Field, Half, Model, Source, registry
from streamline.store.finding import BUNDLED
from ui import api
from ui import fields as field_list
from ui.fields import fill, notes_by_group
from ui.form import read
from ui.gallery import Gallery
from ui.models import Pipelines, entries
from ui.orders import Settings
from ui.planning import Planner
from ui.restoring import Restored, restore, settings_of

ROOT = Path(__file__).parents[1]


class ShakingPipeline(AnimateDiffPipeline):
    """A pipeline of the family's own."""


class Shaking(Family):
    """What the smallest bundled model makes, as if it could shake."""

    name = "shaking"
    pipelines = (ShakingPipeline,)
    networks = ()
    fields = (Field("shake_strength", float, 0.5, most=1, label="Shake", help="how much it shakes", short="shake"),)
    halves = (Half("shaker", "Shaker", "someone/shaker", "another shaker"),)
    models = (
        Model("tiny-shaking", "text-to-video", str(BUNDLED / "tiny-animatediff"), "shaking shapes",
              label="Tiny, shaking", job=(("shake_strength", 0.25),), sizes=((64, 64),), is_small=True),
        Model("shaking", "text-to-video", "someone/shaking", "shakes", label="Shaking",
              parts=(("shaker", "someone/shaker"),), job=(("height", 64), ("width", 64), ("num_frames", 4)),
              sizes=((64, 64),), configs={"unet": {}}),
    )  # fmt: skip

    def defaults(self, pipe):
        return {"height": 64, "width": 64, "num_frames": 4, "fps": 8}


@pytest.fixture(autouse=True)
def registered():
    streamline.register_family(Shaking())
    yield
    registry._families.pop(Shaking.name)


@pytest.fixture(scope="module")
def planner():
    return Planner(Pipelines(offline=True))


def settings_with(planner, shake):
    reading = read(FORM | {"model": "tiny-shaking", "shake": shake}, planner.profile)
    assert reading.is_complete, reading.notes
    return reading.settings


def test_its_models_fields_and_halves_are_on_the_page(tmp_path):
    blocks = [*ui.build(tmp_path).blocks.values()]
    labels = {getattr(block, "label", None): block for block in reversed(blocks)}  # of several the first
    assert {"Tiny, shaking", "Shaking (to be downloaded)"} <= {label for label, _ in labels["Model"].choices}
    assert labels["Shake"].value == 0.5 and labels["Shaker"].placeholder == "someone/shaker"


def test_they_are_shown_with_its_models_only(planner):
    with gr.Blocks():
        fields = field_list.build()

    def shown(name):
        model = entries()[name]
        answer = fields.follow_model(model, planner.profile(Source(name), model))
        boxes = {"own": fields.own_row, "halves": fields.halves_box} | fields.own_fields | fields.halves
        return {name for name, box in boxes.items() if answer[box]["visible"]}, answer

    visible, answer = shown("tiny-shaking")
    assert visible == {"own", "shake"} and answer[fields.own_fields["shake"]]["value"] == 0.25
    visible, answer = shown("shaking")
    assert visible == {"own", "shake", "halves", "shaker"} and answer[fields.own_fields["shake"]]["value"] == 0.5
    assert answer[fields.halves_title]["label"] == "Other halves for Shaking"
    assert shown("tiny-animatediff")[0] == set()
    assert shown("tiny-svd")[0] == {"own", "motion", "noise"}
    assert shown("animatediff")[0] == {"halves", "base", "motion_adapter"}
    visible = {box for box, update in fields.follow_unknown(entries()["tiny-shaking"]).items() if update.get("visible")}
    assert fields.own_fields["shake"] in visible and fields.own_fields["motion"] not in visible


def test_its_field_is_read_and_reaches_the_job_of_its_models_only(planner):
    assert settings_with(planner, 0.75).job.options == (("shake_strength", 0.75),)
    assert settings_with(planner, None).job.shake_strength == 0.25  # as suits the model
    other = read(FORM | {"shake": 0.75}, planner.profile).settings
    assert other.job.options == ()
    reading = read(FORM | {"model": "tiny-shaking", "shake": 2.0}, planner.profile)
    assert reading.settings is None and [*notes_by_group(reading.notes)] == ["more"]
    assert reading.notes["shake"] == "The shake strength must be a number of 0 to 1, not 2.0."


def test_its_halves_are_read(planner):
    form = FORM | {"model": "shaking", "shaker": " someone/else ", "base": "left/over"}
    assert read(form, planner.profile).settings.source == Source("shaking", {"shaker": "someone/else"})


def test_a_receipt_brings_its_field_back(planner, tmp_path):
    settings = settings_with(planner, 0.75)
    receipt = receipt_of(result_of(PLAN))
    receipt = streamline.Receipt(**vars(receipt) | {"model": "tiny-shaking", "job": settings.job})
    found = restore(file_of(receipt, tmp_path), Gallery(tmp_path / "gallery"), "ann", Source(""), None).settings
    assert (found.model, found.job) == ("tiny-shaking", settings.job)
    model = entries()[found.model]
    filled = fill(found, model, planner.profile(found.source, model), None)
    assert filled["shake"] == 0.75
    assert read(FORM | filled | {"model": found.model}, planner.profile).settings.job == settings.job


def test_programs_can_set_its_field(tmp_path):
    endpoints = ui.build(tmp_path).get_api_info()["named_endpoints"]
    for name in ("/generate", "/compare"):
        given = {one["parameter_name"]: one for one in endpoints[name]["parameters"]}
        assert [*given][:11] == ["model", "prompt", "image", "budget", "quality", "emulate", "steps", "frames", "width",
                                 "height", "seed"]  # fmt: skip
        assert given["shake"]["parameter_has_default"] and given["shake"]["parameter_default"] is None
        assert given["motion"]["parameter_has_default"]


def test_programs_are_told_of_its_models_and_its_field(tmp_path):
    told = {block.api_name: block.fn.__doc__ for block in ui.build(tmp_path).fns.values()}
    assert "tiny-animatediff, tiny-svd, tiny-shaking, animatediff, svd, svd-xt, svd-xt-1.1 or shaking" in told["plan"]
    assert "shake: how much it shakes; for models that have it" in told["generate"] and "OWN" not in told["compare"]


@pytest.mark.parametrize("given", [{"short": "seed"}, {"short": "motion"}, {"option": "--noise"}])
def test_a_field_that_would_hide_another_is_refused(given):
    class Other(Shaking):
        name, pipelines, halves = "other", (), ()
        fields = (Field("other", int, 1, **given),)

    with pytest.raises(streamline.ModelError, match="a name of its field 'other' is taken"):
        streamline.register_family(Other())


OLD_JOB = SETTINGS.job.to_dict() | {"motion_bucket_id": 127, "noise_aug_strength": 0.02}
OLD_SETTINGS = {
    "model": "tiny-animatediff", "source": {"name": "tiny-animatediff", "base": "", "motion_adapter": ""},
    "job": OLD_JOB, "quality": "exact", "budget_bytes": 2**30, "card": "",
}  # fmt: skip


@pytest.mark.parametrize("halves", [{}, {"base": "someone/base", "motion_adapter": "/models/motion"}])
def test_runs_that_were_kept_before_are_still_there(tmp_path, halves):
    gallery = Gallery(tmp_path)
    receipt = receipt_of(result_of(PLAN))
    name = gallery.add("ann", ORDER, result_of(PLAN), receipt)
    (path,) = tmp_path.glob("*/*/run.json")
    entry = json.loads(path.read_text())
    entry["settings"] = OLD_SETTINGS | {"source": OLD_SETTINGS["source"] | halves}
    entry["receipt"] |= {"job": OLD_JOB, "base": None, "motion_adapter": None}
    path.write_text(json.dumps(entry))
    run = gallery.get("ann", name)
    assert run.settings.source == Source("tiny-animatediff", halves)
    assert run.settings.job == run.receipt.job and run.settings.job.motion_bucket_id == 127
    assert Settings.from_dict(json.loads(json.dumps(run.settings.to_dict()))) == run.settings
    assert restore(run.video, gallery, "ann", Source(""), None) == Restored(run.settings)
    assert settings_of(run.receipt).job == run.settings.job


def foreign(folder: Path) -> list[str]:
    """What ui takes of streamline that is not a public name."""
    found = []
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "streamline":
                names = [node.module] if "." in node.module else [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("streamline.")]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "streamline":
                names = [node.attr]
            found += [f"{path.name}:{node.lineno} {name}" for name in names if name not in streamline.__all__]
    return found


@pytest.mark.parametrize(
    ("line", "judge"),
    [("", foreign), ("", knowing), ("from streamline.cost import table", foreign), ("streamline.cost", foreign),
     ('FIELD = "motion_bucket_id"', knowing), ("pipe.unet", knowing), ("motion_adapter = 1", knowing)],
)  # fmt: skip
def test_the_page_knows_public_names_and_no_family(tmp_path, line, judge):
    for path in (ROOT / "app.py", *(ROOT / "ui").glob("*.py")):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "planted.py").write_text(line, encoding="utf-8")
    assert [found.partition(":")[0] for found in judge(tmp_path)] == (["planted.py"] if line else [])


def test_the_named_inputs_of_an_endpoint_stay_as_they_are():
    def endpoint(model, seed, *own):
        """Make.

        Args:
            seed: of it
            OWN
        """

    api.take(endpoint, Shaking.fields)
    assert api.inspect.signature(endpoint).parameters.keys() == {"model", "seed", "shake"}
    assert "            shake: how much it shakes; for models that have it\n" in endpoint.__doc__
