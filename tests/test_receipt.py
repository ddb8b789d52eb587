"""Receipts survive JSON and every container, tell nothing private, and are only ever read as data."""

import dataclasses
import json
import math
import zipfile
from pathlib import Path

import pytest
import untrained
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_video import clip

from streamline import Fidelity, InputError, Job, Plan, Receipt, Rehash, Source, export, read_receipt, run, run_naive
from streamline.output.receipt import LARGEST_BYTES, digest, public_name

SUFFIXES = [".mp4", ".webm", ".zip", ".json"]


@pytest.fixture(scope="module")
def receipt():
    """Of a real run."""
    pipe = untrained.animatediff()
    pipe.set_progress_bar_config(disable=True)
    job = Job.for_model(pipe, prompt='a "cat"; = # \\ {} and a Bär 🐻\nsits', num_frames=2, num_inference_steps=2)
    return Receipt.of(pipe, run(pipe, job, Plan.uniform(2)), source=Source("animatediff", {"base": "someone/photos"}))


def write(receipt, path):
    if path.suffix == ".json":
        path.write_text(receipt.to_json())
    else:
        export(clip(), path, fps=8, receipt=receipt)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_receipt_is_found_in_whatever_it_was_put_in(receipt, tmp_path, suffix):
    path = write(receipt, tmp_path / f"clip of a %d cat{suffix}")
    assert read_receipt(path) == receipt
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_receipt_says_what_was_run_and_measured(receipt):
    assert (receipt.model, dict(receipt.parts)["base"], receipt.method, receipt.dtype) == (
        "animatediff", "someone/photos", "streamlined", "float32",
    )  # fmt: skip
    assert receipt.measured.peak_bytes > receipt.measured.weights_bytes > 0
    assert len(receipt.measured.step_seconds) == 2
    assert {"python", "torch", "diffusers"} <= dict(receipt.versions).keys()
    assert receipt.exactness == "exact" and receipt.seed == receipt.job.seed
    rehash = dataclasses.replace(receipt, plan=Plan(rehash=Rehash((0,), "up.3.cat.1")))
    assert rehash.exactness == "approximate"


@pytest.mark.parametrize("make", ["run_naive", "run"])
def test_other_methods_have_no_plan(make):
    pipe = untrained.svd()
    pipe.set_progress_bar_config(disable=True)
    image = Image.radial_gradient("L")
    job = Job.for_model(pipe, num_frames=2, num_inference_steps=1)
    result = run_naive(pipe, job, image) if make == "run_naive" else run(pipe, job, None, image)
    receipt = Receipt.of(pipe, result, image=image, naive=make == "run_naive")
    assert receipt.plan is None and receipt.image == digest(image, job) != digest(image.rotate(90), job)
    assert receipt.exactness == ("approximate" if make == "run_naive" else "exact")
    assert Receipt.from_json(receipt.to_json()) == receipt


@given(
    st.text(max_size=200), st.integers(0, 2**32 - 1), st.lists(st.floats(0, 1e6), max_size=5),
    st.one_of(st.none(), st.builds(Fidelity, st.integers(0, 255), st.floats(0, 100) | st.just(math.inf),
                                   st.none() | st.floats(0, 1))),
)  # fmt: skip
def test_receipts_survive_json(prompt, seed, seconds, fidelity):
    receipt = dataclasses.replace(EXAMPLE, job=Job(64, 64, 8, prompt=prompt, seed=seed), fidelity=fidelity)
    measured = dataclasses.replace(receipt.measured, step_seconds=tuple(seconds))
    receipt = dataclasses.replace(receipt, measured=measured)
    text = receipt.to_json()
    assert Receipt.from_json(text) == receipt
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_nothing_private_is_told(tmp_path):
    folder = tmp_path / "home" / "jane doe" / "my model"
    folder.mkdir(parents=True)
    assert public_name(str(folder)) == "my model"
    assert public_name("stabilityai/stable-video-diffusion-img2vid") == "stabilityai/stable-video-diffusion-img2vid"
    assert public_name("tiny-svd") == "tiny-svd"
    cached = tmp_path / "hub" / "models--some-one--a.model" / "snapshots" / "0123abcd"
    assert public_name(str(cached)) == "some-one/a.model"
    for odd in ("/", "..", "~", str(folder / ".hidden"), "/home/jane/_x", str(tmp_path / ("x" * 200)), "C:\\a\\b"):
        told = public_name(odd)
        assert dataclasses.replace(EXAMPLE, model=told).model == told
        assert str(Path.home()) not in told and "jane" not in told


@pytest.mark.parametrize(
    "change",
    [
        {"model": "/etc/passwd"},
        {"model": "../x"},
        {"model": "~/x"},
        {"model": "a/b/c"},
        {"model": None},
        {"base": 3},
        {"method": "magic"},
        {"method": "original"},
        {"plan": None},
        {"plan": {"denoiser": {"__class__": {}}}},
        {"job": {"height": 1}},
        {"job": []},
        {"measured": {}},
        {"measured": None},
        {"versions": {"torch": 2}},
        {"predicted": {"peak_bytes": "much", "seconds": 1}},
        {"predicted": {"peak_bytes": -1, "seconds": 1}},
        {"predicted": {"peak_bytes": 10**400, "seconds": 1}},
        {"predicted": {"peak_bytes": True, "seconds": 1}},
        {"fidelity": {"largest_difference": 1, "psnr": [], "ssim": None}},
        {"image": "x"},
        {"device": "x" * 1000},
        {"date": 5},
        {"streamline_receipt": 2},
        {"code": "print()"},
        {"quality": "perfect"},
        {"quality": ["exact"]},
        {"card": ""},
        {"card": {"name": "8GiB"}},
        {"folders": ["model"]},
        {"folders": {"model": "/home/jane"}},
        {"folders": {"device": "0" * 64}},
    ],
)
def test_values_that_make_no_receipt_are_refused(change):
    assert Receipt.from_dict(EXAMPLE.to_dict()) == EXAMPLE
    with pytest.raises(InputError) as error:
        Receipt.from_dict(EXAMPLE.to_dict() | change)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is a text\n" * 100,
        b"\xff\xfe\x00" * 1000,
        b"[" * 500_000,
        b'{"streamline_receipt": 1, "job": ' + b'{"a":' * 100_000,
        b'{"streamline_receipt": ' + b"9" * 900_000 + b"}",
        b'{"streamline_receipt": NaN}',
        b"[]",
        b"{}",
        b" " * (LARGEST_BYTES + 2),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".txt", ""])
def test_any_other_file_is_one_sentence(tmp_path, content, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".zip"])
def test_truncated_files_and_those_without_a_receipt_are_refused(receipt, tmp_path, suffix):
    refused(export(clip(), tmp_path / f"bare{suffix}"))
    whole = write(receipt, tmp_path / f"whole{suffix}").read_bytes()
    for length in (8, 100, 500):
        path = tmp_path / f"part{suffix}"
        path.write_bytes(whole[:length])
        refused(path)


def test_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("receipt.json", "w") as file:
        for _ in range(200):
            file.write(b" " * 1_000_000)
    refused(path)
    sparse = tmp_path / "huge.mp4"
    with sparse.open("wb") as file:
        file.truncate(5 << 30)
    refused(sparse)


@pytest.mark.parametrize("name", ["nowhere.mp4", ".", "a\0b.json", "x" * 5000 + ".json", "/dev/zero"])
def test_paths_that_are_no_file_are_refused(tmp_path, name):
    refused(tmp_path / name)


def refused(path):
    with pytest.raises(InputError) as error:
        read_receipt(path)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300


EXAMPLE = Receipt.from_dict(
    {
        "streamline_receipt": 1,
        "model": "tiny-animatediff",
        "job": {"height": 64, "width": 64, "num_frames": 8, "prompt": "a red circle"},
        "plan": Plan.uniform(2).to_dict(),
        "method": "streamlined",
        "device": "a processor",
        "dtype": "float32",
        "versions": {"torch": "2.13.0"},
        "measured": {
            "peak_bytes": 3, "weights_bytes": 2, "seconds": 1.0, "step_seconds": [0.1, 0.2], "decode_seconds": 0.5,
        },
        "date": "2026-01-01T00:00:00+00:00",
    }
)  # fmt: skip
