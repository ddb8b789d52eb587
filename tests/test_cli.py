"""The command line as users meet it: a process, its two streams and its exit status."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import untrained
from PIL import Image

from streamline import MODELS, Plan, Slicing, read_receipt
from streamline.cli import main

ROOT = Path(__file__).parents[1]


def streamline(*arguments, **options):
    command = [sys.executable, "-m", "streamline", *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both families as folders, an image and a plan."""
    folder = tmp_path_factory.mktemp("cli")
    untrained.animatediff().save_pretrained(folder / "animatediff")
    untrained.svd().save_pretrained(folder / "svd")
    Image.radial_gradient("L").save(folder / "image.png")
    Image.new("RGB", (64, 64), "blue").save(folder / "plain.png")
    plan = Plan(denoiser={"mid": Slicing(frames=2)}, guidance="batched")
    (folder / "plan.json").write_text(plan.to_json())
    return folder


def test_json_is_one_object_with_everything_about_the_run(folder):
    out = folder / "text.mp4"
    done = streamline(
        "generate", "--model", folder / "animatediff", "--prompt", "a cat", "--seed", 5, "--frames", 4,
        "--steps", 2, "--slices", "frames=2,pixels=3", "--out", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["output"] == str(out) and out.read_bytes()[4:8] == b"ftyp"
    assert answer["seed"] == answer["job"]["seed"] == 5
    assert len(answer["step_seconds"]) == 2 and sum(answer["step_seconds"]) <= answer["seconds"]
    assert answer["peak_bytes"] > answer["weights_bytes"] > 0
    slicing = Slicing(frames=2, pixels=3)
    assert Plan.from_dict(answer["plan"]) == Plan(denoiser=slicing, decoder=slicing, guidance="sequential")
    assert "denoising" in done.stderr


@pytest.mark.parametrize("how", ["--original", "--plan"])
def test_an_image_becomes_a_video_by_a_plan_or_as_in_diffusers(folder, capsys, how):
    value = [str(folder / "plan.json")] if how == "--plan" else []
    status = main(
        ["generate", "--model", str(folder / "svd"), "--image", str(folder / "image.png"), "--size", "32x48",
         "--steps", "1", "--out", str(folder / f"image{how}.mp4"), "--json", how, *value]
    )  # fmt: skip
    assert status == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["job"]["height"], answer["job"]["width"]) == (32, 48)
    if how == "--original":
        assert answer["plan"] is None
    else:
        assert Plan.from_dict(answer["plan"]) == Plan.from_json((folder / "plan.json").read_text())


@pytest.mark.parametrize("suffix", [".webm", ".zip"])
@pytest.mark.parametrize("how", [["--slices", "frames=2,pixels=3"], ["--original"], ["--naive"]], ids="-".join)
def test_a_video_is_made_again_from_its_receipt(folder, capsys, suffix, how):
    first, again, other = (folder / f"{name}{suffix}" for name in ("first", "again", "other"))
    arguments = ["--model", str(folder / "svd"), "--image", str(folder / "image.png"), "--out"]
    made = ["--size", "32x48", "--frames", "3", "--steps", "1", "--seed", "7", "--fps", "5", "--motion-bucket", "9"]
    assert main(["generate", *arguments, str(first), *made, *how]) == 0
    receipt = read_receipt(first)
    assert (receipt.model, receipt.job.seed, receipt.job.width) == ("svd", 7, 48)
    assert main(["generate", *arguments, str(again), "--from-receipt", str(first)]) == 0
    repeated = read_receipt(again)
    for name in ("model", "job", "plan", "method", "dtype", "image"):
        assert getattr(repeated, name) == getattr(receipt, name)
    overrides = ["--seed", "8", "--slices", "2", "--image", str(folder / "plain.png")]
    capsys.readouterr()
    assert main(["generate", *arguments, str(other), "--from-receipt", str(first), *overrides]) == 0
    assert "another picture" in capsys.readouterr().err
    overridden = read_receipt(other)
    assert overridden.job == dataclasses.replace(receipt.job, seed=8)
    assert overridden.plan == Plan.uniform(2) and overridden.image != receipt.image
    assert main(["generate", "--from-receipt", str(first)]) == 2
    _assert_one_sentence(*capsys.readouterr(), "give it with --image")
    assert main(["generate", "--from-receipt", str(first), *arguments[2:], str(again)]) == 2
    _assert_one_sentence(*capsys.readouterr(), "a folder called 'svd': say where it is, with --model")


def test_all_ways_are_compared_on_one_picture(folder, capsys):
    out = folder / "comparison.png"
    options = ["--model", str(folder / "animatediff"), "--prompt", "a cat", "--frames", "5", "--steps", "2"]
    assert main(["compare", *options, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    peaks = {name: run["peak_bytes"] for name, run in answer["runs"].items()}
    assert list(peaks) == ["original", "streamlined", "clip by clip"]
    assert peaks["streamlined"] < peaks["original"]
    assert answer["largest_difference"] <= 1
    with Image.open(out) as picture:
        assert picture.height > 3 * 128 and picture.width > 5 * 128


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--frames", "0"], "number of frames"),
        (["--frames", "many"], "invalid int value"),
        (["--size", "big"], "HEIGHTxWIDTH"),
        (["--slices", "0"], "at least 1"),
        (["--slices", "rows=2"], "--slices"),
        (["--slices", ""], "--slices"),
        (["--slices", "9" * 5000], "--slices"),
        (["--slices", "frames=2,frames=3"], "--slices"),
        (["--plan", "a\0b"], "cannot be read"),
        (["--slices", "4", "--original"], "not allowed with"),
        (["--original", "--guidance", "sequential"], "goes with --slices"),
        (["--plan", "nowhere.json"], "cannot be read"),
        (["--plan", "pyproject.toml"], "not valid JSON"),
        (["--image", "pyproject.toml"], "no picture"),
        (["--out", "nowhere/out.mp4"], "no folder"),
        (["--out", "~nosuchuser/out.mp4"], "cannot be written"),
        (["--out", "a" * 400 + ".mp4"], "cannot be written"),
        (["--out", "out.avi"], "must end in .mp4"),
        (["--from-receipt", "pyproject.toml"], "a receipt is in"),
        (["--from-receipt", "nowhere.mp4"], "no file"),
        (["--model", "nonesuch"], "not a folder"),
        (["--model", "~nosuchuser/x"], "not a folder"),
        (["--model", "x" * 5000], "not a folder"),
        (["--model", "svd-xt", "--image", "{folder}/image.png"], "not on this machine"),
        (["--model", "{folder}/svd"], "give one"),
        (["--model", "{folder}/animatediff"], "write a prompt"),
        (["--colour"], "unrecognized"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(folder, capsys, monkeypatch, arguments, sentence):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert _status(["generate", *(argument.format(folder=folder) for argument in arguments)]) == 2
    _assert_one_sentence(*capsys.readouterr(), sentence)


def test_what_nobody_expected_is_one_sentence_too(folder, capsys, monkeypatch):
    def fail(*_, **__):
        raise IndexError("out of bounds\nand so on")

    monkeypatch.setattr("streamline.commands.job_options.load", fail)
    monkeypatch.delenv("STREAMLINE_DEBUG", raising=False)
    assert main(["generate", "--out", str(folder / "out.mp4")]) == 1
    _assert_one_sentence(*capsys.readouterr(), "IndexError: out of bounds")
    monkeypatch.setenv("STREAMLINE_DEBUG", "1")
    with pytest.raises(IndexError):
        main(["generate", "--out", str(folder / "out.mp4")])


def test_bad_input_to_the_process(folder):
    done = streamline("generate", "--image", "pyproject.toml")
    assert done.returncode == 2
    _assert_one_sentence(done.stdout, done.stderr, "no picture")


def test_ctrl_c_ends_quietly(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "streamline", "generate", "--model", folder / "animatediff",
         "--prompt", "a cat", "--steps", "500", "--out", folder / "never.mp4"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen = ""
    while not re.search(r" [1-9]\d*/\d+", seen):  # until a step is done
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == "" and "Traceback" not in seen + stderr
    assert stderr.rstrip().endswith("streamline: Stopped.")
    assert not list(folder.glob("*never*"))


def test_models_are_listed(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [model.name for model in MODELS]
    assert {row["name"]: row["here"] for row in rows} == {model.name: model.is_here for model in MODELS}
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(model.name in table for model in MODELS)


def _status(arguments):
    try:
        return main(arguments)
    except SystemExit as end:  # how argparse ends
        return end.code


def _assert_one_sentence(stdout, stderr, sentence):
    assert stdout == ""
    assert sentence.lower() in stderr.lower()
    assert stderr.startswith("streamline: ") and len(stderr.splitlines()) == 1
