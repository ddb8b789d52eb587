"""Whatever is typed, sent or dropped: a valid result, or one error of ours with a sentence, and never a traceback.

Pictures, receipts, form fields, endpoints and flags, 600 cases together; STREAMLINE_CASES=2000 tries that many.
"""

import contextlib
import io
import json
import math
import os
import zipfile

import gradio as gr
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

import streamline
import ui
from streamline.cli import main
from streamline.pictures import fit_to
from ui.fields import PICTURES
from ui.form import read, read_picture
from ui.models import Pipelines
from ui.planning import Planner
from ui.restoring import settings_of

CASES = int(os.environ.get("STREAMLINE_CASES", 600))
JOB = streamline.Job(height=64, width=64, num_frames=2, num_inference_steps=1, prompt="a cat")
MEASURED = streamline.Measured(2**20, 2**10, 1.0, (0.5, 0.5), 0.1)
PLAN = streamline.Plan.uniform(2)
RECEIPT = streamline.Receipt(
    "tiny-animatediff", JOB, PLAN, "streamlined", "a processor", "float32", (("python", "3"),), MEASURED, "2026-01-01"
)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "PPM": ".ppm"}

text = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", " ", "\x00", "../../etc/passwd", "/etc/passwd", "{}", "'; DROP TABLE x", "∞", "8 GiB", "-1"]),
    st.sampled_from(["a" * 5000, "🎞" * 300, "\n\n", "%s%n", "${HOME}", "__import__('os')", "svd", "1e999", "nan"]),
)
number = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.none(),
    st.sampled_from([0, 1, -1, 7, 8, 63, 64, 2**31, 2**32, 2**63, 1e300, 0.5, math.nan, math.inf]),
)
anything = st.one_of(
    text, number, st.booleans(), st.lists(number, max_size=2), st.dictionaries(text, number, max_size=2)
)


def cases(share, *more):
    """Hypothesis' settings for a share of all cases; the same cases every time, unless more are asked for."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=max(1, round(share * CASES)),
        deadline=None,
        derandomize=CASES <= 600,
        suppress_health_check=checks,
        phases=(Phase.generate, *more),
        database=None,
    )


def is_sentence(words):
    return bool(words.strip()) and "Traceback" not in words and len(words) < 1000


@st.composite
def pictures(draw):
    """The bytes of a picture of any kind, perhaps cut, perhaps with bytes changed, under any suffix."""
    mode, kind = draw(st.sampled_from(MODES)), draw(st.sampled_from(list(FORMATS)))
    size = draw(st.tuples(st.integers(1, 80), st.integers(1, 80)))
    picture = Image.new(mode, size)
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))  # how it is turned
    more = {"exif": exif.tobytes()} if draw(st.booleans()) else {}
    if draw(st.integers(0, 5)) == 0:
        more |= {"save_all": True, "append_images": [picture, picture]}
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **more)
    except (OSError, ValueError, KeyError, TypeError):
        picture.convert("RGB").save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 3)) == 0:
        del content[draw(st.integers(0, len(content) - 1)) :]
    return bytes(content), draw(st.sampled_from([*FORMATS.values(), "", ".mp4"]))


@cases(0.3, Phase.shrink)
@given(pictures())
def test_pictures(tmp_path, picture):
    content, suffix = picture
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(content)
    try:
        opened = read_picture(str(path))
    except streamline.InputError as error:
        assert is_sentence(str(error)) and "\n" not in str(error)
        return
    fitted = fit_to(opened, JOB)
    assert fitted.mode == "RGB" and fitted.size == (64, 64)


def test_a_picture_that_would_unpack_to_gigabytes(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (30_000, 30_000)).save(path)
    assert path.stat().st_size < 200_000
    with pytest.raises(streamline.InputError, match="too large to open safely"):
        read_picture(str(path))


@st.composite
def receipts(draw):
    """A receipt with things changed in it, in a file of some kind that it may not be."""
    data = json.loads(RECEIPT.to_json())
    places = [data, data["job"], data["measured"], data["plan"], data["plan"]["denoiser"]]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(places))
        key = draw(st.one_of(st.sampled_from(sorted(place)) if place else text, text))
        if draw(st.booleans()):
            place.pop(key, None)
        else:
            place[key] = draw(anything)
    content = json.dumps(data).encode("utf-8", errors="surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        content = draw(st.sampled_from([b"", b"\xff\xfe", b"[" * 5000, b"NaN", content[: len(content) // 2]]))
    return content, draw(st.sampled_from([".json", ".json", ".zip", ".mp4", ".webm", ".png"]))


@cases(0.3, Phase.shrink)
@given(receipts())
def test_receipts(tmp_path, receipt):
    content, suffix = receipt
    path = tmp_path / f"dropped{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("receipt.json", content)
    else:
        path.write_bytes(content)
    try:
        found = streamline.read_receipt(path)
    except streamline.InputError as error:
        assert is_sentence(str(error))
        return
    again = streamline.Receipt.from_json(found.to_json())
    assert again == found
    assert settings_of(found).job == found.job


@pytest.fixture(scope="module")
def planner():
    return Planner(Pipelines(offline=True))


FORM = dict(  # noqa: C408
    model="tiny-animatediff", own="", base="", motion_adapter="", prompt="a cat", negative_prompt="", image=None,
    width=64, height=64, frames=2, steps=1, guidance=3.0, motion=127, fps=8, noise=0.02, seed=2, quality="exact",
    card="", budget="",
)  # fmt: skip
values = {name: text if isinstance(value, str) else number for name, value in FORM.items()} | {
    "image": st.one_of(st.none(), st.sampled_from([PICTURES[0], "/etc/passwd", "/", "", "x" * 5000])),
    "model": st.one_of(text, st.sampled_from(["tiny-svd", "svd", "animatediff", "own"])),
}


@cases(0.36, Phase.shrink)
@given(st.lists(st.sampled_from([*FORM]).flatmap(lambda name: st.tuples(st.just(name), values[name])), max_size=4))
def test_form_fields(planner, changes):
    reading = read(FORM | dict(changes), planner.profile, for_run=True)
    assert all(is_sentence(note) for note in reading.notes.values())
    assert reading.settings is not None or reading.notes
    if reading.settings is not None:
        assert type(reading.settings).from_dict(json.loads(json.dumps(reading.settings.to_dict()))) == reading.settings


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory):
    """The functions behind the named endpoints."""
    demo = ui.build(tmp_path_factory.mktemp("gallery"), is_offline=True)
    return {block.api_name: block.fn for block in demo.fns.values() if block.api_name in ("plan", "generate")}


def hostile(least):
    return st.one_of(st.just(least), st.just(0), number.filter(lambda value: not value or not 1 < value < 10**6))


@cases(0.02)
@given(
    st.sampled_from(["plan", "generate"]),
    st.one_of(st.just("tiny-animatediff"), st.sampled_from(["tiny-svd", "own", ""]), text),
    *(st.one_of(st.just(usual), text) for usual in ("a cat", "", "exact", "")),
    hostile(1), hostile(2), hostile(64), hostile(64), hostile(1),
)  # fmt: skip
def test_endpoints(endpoints, name, model, prompt, budget, quality, card, steps, frames, width, height, seed):
    shape = (steps or 1, frames or 2, width or 64, height or 64)
    try:
        if name == "plan":
            answer = endpoints["plan"](model, budget, quality, card, *shape)
            assert isinstance(answer["feasible"], bool) and json.dumps(answer)
        else:
            *_, answer = endpoints["generate"](model, prompt, None, budget, quality, card, *shape, seed)
            video, receipt = answer
            assert os.path.getsize(video) and streamline.Receipt.from_dict(receipt)
    except gr.Error as error:
        assert is_sentence(str(error.message))


FLAGS = ("--model", "--prompt", "--image", "--seed", "--frames", "--size", "--fps", "--guidance-scale", "--noise",
         "--motion-bucket", "--dtype", "--budget", "--slices", "--quality", "--guidance", "--plan", "--device",
         "--base", "--from-receipt", "--json", "--original", "--naive", "--offline", "--nonsense")  # fmt: skip
typed = st.one_of(text, number.map(str), st.sampled_from(["64x64", "cpu", "1GiB", "exact", "frames=2", PICTURES[0]]))


@cases(0.02)
@given(
    st.sampled_from(["generate", "plan", "compare", "trace", "frontier", "nonsense"]),
    st.lists(st.tuples(st.sampled_from(FLAGS), typed), min_size=1, max_size=4),
)
def test_flags(tmp_path, command, flags):
    arguments = [command, *(word for pair in flags for word in pair)]
    if command in ("generate", "compare"):  # where nothing is wrong with the rest, this is
        arguments += ["--steps", "0", "--out", str(tmp_path / "out.mp4")]
    if command in ("plan", "trace", "frontier"):
        arguments += ["--steps", "-1"]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SystemExit as error:
            status = error.code
    assert status in (0, 2), said.getvalue()
    lines = [line for line in said.getvalue().splitlines() if line.startswith("streamline: ")]
    assert status == 0 or (len(lines) == 1 and is_sentence(lines[0])), said.getvalue()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
