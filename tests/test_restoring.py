"""From a file back to the settings: all that can be had comes back, folders stay untold, and any value is only data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_page import FORM, profile
from test_tabs import SETTINGS, receipt_of, result_of

import streamline
from streamline import Source
from streamline.output.receipt import digest
from streamline.store.fingerprint import fingerprint
from ui.events import PartDone
from ui.fields import PICTURES, fill
from ui.form import read
from ui.gallery import Gallery
from ui.models import OWN, entries
from ui.orders import QUALITIES, Order, Part, Settings
from ui.restoring import MODEL, Restored, restore, settings_of
from ui.service import Service

BUNDLED = Path(__file__).parents[1] / "assets" / "models" / "tiny-animatediff"
PLAN = replace(streamline.Plan.uniform(2), budget_bytes=2**29)
NOTHING = Source("")
EXAMPLE = receipt_of(result_of(PLAN)).to_dict()


@pytest.fixture
def folder(tmp_path):
    """A model of a visitor's own."""
    place = tmp_path / "home of jane" / "my model"
    shutil.copytree(BUNDLED, place)
    return place


def file_of(receipt, folder):
    path = folder / "receipt.json"
    path.write_text(receipt.to_json())
    return path


def made_with(folder, **changes):
    return replace(receipt_of(result_of(PLAN)), model=folder.name, folders=(("model", fingerprint(folder)),), **changes)


def kept(gallery, owner, settings, receipt, image=None):
    """A run in the gallery, as if it had been made."""
    order = Order("generate", settings, (Part("streamlined", PLAN),), image)
    return gallery.get(owner, gallery.add(owner, order, result_of(PLAN), receipt))


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("card", ["", "8GiB", "RTX 3060"])
def test_a_stranger_gets_every_setting_of_a_video(tmp_path, quality, card):
    settings = replace(SETTINGS, quality=quality, card=card, budget_bytes=PLAN.budget_bytes)
    order = Order("generate", settings, (Part("streamlined", PLAN),))
    result = result_of(PLAN)
    receipt = replace(receipt_of(result), quality=quality, card=card or None)  # as ui/work.py has it written
    service = Service(lambda order, stop: iter([PartDone(0, result, receipt)]), Gallery(tmp_path))
    *_, view = service.follow("ann", service.submit("ann", order))
    video = service.gallery.get("ann", view.run).video
    assert restore(video, service.gallery, "bob", NOTHING, None) == Restored(settings)
    assert restore(video, service.gallery, "ann", NOTHING, None) == Restored(settings)


def test_a_receipt_of_before_says_its_quality_by_its_plan():
    old = {name: value for name, value in EXAMPLE.items() if name not in ("quality", "card", "folders")}
    assert settings_of(streamline.Receipt.from_dict(old)).quality == "exact"
    for quality, reason in (("fast", "quality: fast, as asked"), ("balanced", "quality: balanced")):
        plan = replace(PLAN, rehash=streamline.Rehash((0,), "up.3.cat.1"), reasons=(reason,))
        settings = settings_of(streamline.Receipt.from_dict(old | {"plan": plan.to_dict()}))
        assert (settings.quality, settings.card) == (quality, "")


def test_a_folder_is_told_by_its_name_and_what_is_in_it(folder):
    pipe = streamline.load(str(folder), device="cpu")
    job = streamline.Job.for_model(pipe, prompt="a cat", num_frames=1, num_inference_steps=1)
    receipt = streamline.Receipt.of(pipe, streamline.run(pipe, job, None), source=streamline.Source(str(folder)))
    assert receipt.model == "my model" and dict(receipt.folders) == {"model": fingerprint(folder)}
    assert "jane" not in receipt.to_json() and "/" not in receipt.model
    assert streamline.Receipt.from_json(receipt.to_json()) == receipt
    assert receipt.is_of("model", str(folder)) and not receipt.is_of("model", str(folder.parent))
    moved = folder.rename(folder.with_name("elsewhere"))
    assert receipt.is_of("model", str(moved))
    weights = next((moved / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    half = len(content) // 2
    content[half:] = bytes(len(content) - half)
    weights.write_bytes(content)
    assert not receipt.is_of("model", str(moved))


@pytest.mark.parametrize("name", [None, "tiny-svd", "someone/something", "nowhere", "~nobody/x", "a\0b"])
def test_what_is_no_folder_has_no_fingerprint(name):
    receipt = receipt_of(result_of(PLAN))
    assert not receipt.is_of("base", name or "")
    with pytest.raises((OSError, ValueError)):
        fingerprint(Path(name or ""))


def test_a_folder_comes_back_where_it_is_known(tmp_path, folder):
    gallery, receipt = Gallery(tmp_path / "gallery"), made_with(folder)
    path = file_of(receipt, tmp_path)
    with pytest.raises(streamline.InputError, match=r"“my model”.* type it under “A folder or hub id of your own”"):
        restore(path, gallery, "ann", NOTHING, None)
    found = restore(path, gallery, "ann", Source(str(folder)), None)
    assert found.settings.source.name == str(folder) and found.settings.model == OWN and not found.remark
    found = restore(path, gallery, "ann", Source(str(BUNDLED.parent / "tiny-svd")), None)
    assert "is not the “my model”" in found.remark
    settings = Settings(OWN, Source(str(folder)), SETTINGS.job)
    kept(gallery, "ann", settings, replace(receipt, device="another"))
    assert restore(path, gallery, "ann", NOTHING, None).settings.source.name == str(folder)
    with pytest.raises(streamline.InputError):
        restore(path, gallery, "bob", NOTHING, None)
    assert restore(path, gallery, "bob", Source(str(folder)), None, is_public=True).settings.source.name == "my model"


def test_the_halves_of_a_model_may_be_folders_too(tmp_path, folder):
    receipt = replace(
        receipt_of(result_of(PLAN)),
        model="animatediff",
        parts=(("base", folder.name),),
        folders=(("base", fingerprint(folder)),),
    )
    path = file_of(receipt, tmp_path)
    with pytest.raises(streamline.InputError, match=r"type it under “Image model”"):
        restore(path, Gallery(tmp_path), "ann", NOTHING, None)
    source = restore(path, Gallery(tmp_path), "ann", Source("", {"base": str(folder)}), None).settings.source
    assert source == Source("animatediff", {"base": str(folder)})


def test_a_picture_comes_back_where_it_is_known(tmp_path):
    gallery, receipt = Gallery(tmp_path / "gallery"), receipt_of(result_of(PLAN))
    mine = tmp_path / "mine.png"
    Image.radial_gradient("L").convert("RGB").save(mine)

    def of(picture):
        told = digest(Image.open(picture), receipt.job)
        return file_of(replace(receipt, model="tiny-svd", image=told), tmp_path)

    assert restore(of(PICTURES[1]), gallery, "ann", NOTHING, PICTURES[0]).picture == Path(PICTURES[1])
    assert restore(of(mine), gallery, "ann", NOTHING, str(mine)).picture == mine
    missing = restore(of(mine), gallery, "ann", NOTHING, PICTURES[0])
    assert missing.picture is None and missing.remark.startswith("Give it its picture again")
    told = streamline.read_receipt(of(mine))
    run = kept(gallery, "ann", SETTINGS, replace(told, device="another"), Image.open(mine))
    assert restore(of(mine), gallery, "ann", NOTHING, None).picture == run.picture
    assert restore(of(mine), gallery, "bob", NOTHING, None).picture is None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["own", "tiny-svd", "../x", "/etc", "a" * 300, "<b>", "a/b", "exact", "0" * 64, "8GiB", "\0"]),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8), some, max_size=3),
    max_leaves=6,
)  # fmt: skip
PLACES = [
    *EXAMPLE,
    "plan.budget_bytes",
    *streamline.all_halves(),
    *(f"job.{field.name}" for field in streamline.own_fields().values()),
]
PLACES += [f"job.{name}" for name in EXAMPLE["job"]] + [f"folders.{name}" for name in (MODEL, *streamline.all_halves())]


@given(st.dictionaries(st.sampled_from(PLACES), ANYTHING, min_size=1, max_size=3))
def test_any_value_is_refused_or_becomes_what_stands_in_a_field(changes):
    data = json.loads(json.dumps(EXAMPLE))
    for place, value in changes.items():
        where, _, name = place.rpartition(".")
        if where and not isinstance(data[where], dict):
            continue
        (data[where] if where else data)[name] = value
    try:
        settings = settings_of(streamline.Receipt.from_dict(data))
    except streamline.InputError as error:
        assert len(str(error).splitlines()) == 1 and str(error).endswith(".")
        return
    entry = entries()[settings.model]
    assert settings.quality in QUALITIES and settings.source.name and not settings.source.name.startswith(("/", "."))
    filled = fill(settings, entry, profile(settings.source, entry), None)
    reading = read(FORM | filled | {"model": settings.model}, profile)
    assert reading.notes or reading.settings == replace(
        settings, job=reading.settings.job, source=reading.settings.source
    )
    assert all(len(note.splitlines()) == 1 for note in reading.notes.values())
