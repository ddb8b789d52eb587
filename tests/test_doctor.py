"""The doctor finds what is wrong, says how to mend it, and finds nothing where nothing is."""

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import hub
import pytest
import untrained

from streamline import MODELS, Finding, examine
from streamline.doctor import (
    has_nvidia_card,
    look_at_bundled,
    look_at_disk,
    look_at_ffmpeg,
    look_at_gpu,
    look_at_hub,
    look_at_memory,
    look_at_versions,
    pins,
)
from streamline.hardware.cgroups import Limit
from streamline.hardware.nvml import Gpu

ROOT = Path(__file__).parents[1]
GIB = 2**30
GPU = Gpu("uuid", "Big GPU", 24 * GIB, 20 * GIB, None, "600.1")


def test_this_machine_is_examined_and_the_command_says_the_same(tmp_path):
    findings = examine(tmp_path, offline=True)
    assert all(bool(finding.remedy) is (finding.level != "ok") for finding in findings)
    command = [sys.executable, "-m", "streamline", "doctor", "--offline", "--output", str(tmp_path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    told = [Finding(**finding) for finding in json.loads(done.stdout)]
    assert [finding.level for finding in told] == [finding.level for finding in findings]
    assert done.returncode == (1 if any(finding.level == "problem" for finding in told) else 0)


def test_a_problem_is_exit_status_1(tmp_path):
    environment = os.environ | {"IMAGEIO_FFMPEG_EXE": str(tmp_path / "nothing")}
    command = [sys.executable, "-m", "streamline", "doctor", "--offline"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "ffmpeg cannot be run" in done.stdout and "unset IMAGEIO_FFMPEG_EXE" in done.stdout


@pytest.mark.parametrize(
    ("reading", "level", "sentence", "remedy"),
    [
        (("Big GPU", [GPU], "13.0", None, True), "ok", "Big GPU", ""),
        (("", [GPU], None, None, True), "problem", "built without CUDA", "launch.sh"),
        (("", [GPU], "13.0", "", True), "problem", "hides it", "CUDA_VISIBLE_DEVICES"),
        (("", [GPU], "13.0", None, True), "problem", "driver 600.1", "Update"),
        (("", [], "13.0", None, True), "problem", "without a working driver", "--gpus all"),
        (("", [], None, None, False), "warning", "no GPU", "--emulate"),
    ],
)
def test_gpus_that_pytorch_cannot_use(reading, level, sentence, remedy):
    finding = look_at_gpu(*reading)
    assert finding.level == level and sentence in finding.what and remedy in finding.remedy


def test_cards_are_seen_without_a_driver(tmp_path):
    for name, vendor, kind in (("a", "0x10de", "0x030000"), ("b", "0x8086", "0x030000"), ("c", "0x10de", "0x020000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    assert has_nvidia_card(tmp_path)
    shutil.rmtree(tmp_path / "a")
    assert not has_nvidia_card(tmp_path) and not has_nvidia_card(tmp_path / "nowhere")


def test_versions_are_those_of_the_requirements():
    pinned = pins()
    assert {"torch", "diffusers", "huggingface_hub", "imageio-ffmpeg"} <= pinned.keys()
    here = {package: version(package).partition("+")[0] for package in pinned}
    assert [finding.level for finding in look_at_versions(here)] == ["ok"]
    (other,) = look_at_versions(here | {"torch": "1.0", "numpy": "0.9"})
    assert other.level == "warning" and "instead of 1.0" in other.what and "instead of 0.9" in other.what
    missing, _ = look_at_versions(here | {"no-such-package": "1.0"})
    assert missing.level == "problem" and "no-such-package is not installed" in missing.what


def test_memory_limits():
    assert not list(look_at_memory([], 128 * GIB))
    loose, tight = Limit(64 * GIB, 0, "outer"), Limit(GIB, 0, "inner")
    assert [finding.level for finding in look_at_memory([loose], 128 * GIB)] == ["ok"]
    (finding,) = look_at_memory([loose, tight], 128 * GIB)
    assert finding.level == "warning" and "inner" in finding.what
    assert not list(look_at_memory([loose], 64 * GIB)), "no limit at all"


def test_disks(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert look_at_disk(tmp_path / "to" / "be" / "made", 1).level == "ok"
    assert look_at_disk(tmp_path, 2 * free).level == "warning"
    assert look_at_disk(tmp_path, 100 * free).level == "problem"
    assert not list(tmp_path.iterdir())


def test_an_ffmpeg_without_encoders(tmp_path, monkeypatch):
    assert look_at_ffmpeg().level == "ok"
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho libx264\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    finding = look_at_ffmpeg()
    assert finding.level == "problem" and "no libvpx-vp9" in finding.what and "no libx264" not in finding.what


@pytest.mark.parametrize("name", ["tiny-animatediff", "tiny-svd"])
def test_bundled_models_that_are_damaged(tmp_path, name):
    model = next(model for model in MODELS if model.name == name)
    assert look_at_bundled(model).level == "ok"
    copy = shutil.copytree(model.source, tmp_path / name)
    model = dataclasses.replace(model, source=str(copy))
    assert look_at_bundled(model).level == "ok"

    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for damaged in (whole[:-1], whole[:1000], b"", pointer, whole[:-64] + b"\xff" * 64):
        weights.write_bytes(damaged)
        finding = look_at_bundled(model)
        assert finding.level == "problem" and "damaged" in finding.what and "unet" in finding.what
    weights.unlink()
    assert "not complete" in look_at_bundled(model).what
    weights.write_bytes(whole)
    (copy / "model_index.json").write_text("{")
    assert "model_index.json" in look_at_bundled(model).what


# One process a hub: its address is settled when huggingface_hub is imported.
LOOK = """
import dataclasses, json, sys
from streamline import MODELS
from streamline.doctor import look_at_hub
models = [dataclasses.replace(MODELS[-1], name=source, source=source) for source in json.loads(sys.argv[1])]
print(json.dumps([finding.to_dict() for finding in look_at_hub(models, offline=False)]))
"""


def looked_up(address, cache, *sources):
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", LOOK, json.dumps(sources)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [Finding(**finding) for finding in json.loads(done.stdout)]


def test_the_hub_gives_access_or_says_why_not(tmp_path):
    for name in ("open", "locked"):
        untrained.image_model().save_pretrained(tmp_path / "hub" / "lab" / name)
    with hub.serve(tmp_path / "hub", gated=("lab/locked",)) as (address, sent):
        found, gated, unknown = looked_up(address, tmp_path, "lab/open", "lab/locked", "lab/nowhere")
    assert found.level == "ok" and not sent, "nothing is fetched"
    assert gated.level == "warning" and "licence" in gated.what and "hf auth login" in gated.remedy
    assert unknown.level == "warning" and "no model lab/nowhere" in unknown.what
    (away,) = looked_up("http://127.0.0.1:9", tmp_path, "lab/open", "lab/locked")
    assert away.level == "warning" and "cannot be reached" in away.what and "lab/locked" in away.what


def test_offline_the_hub_is_left_alone():
    absent = [dataclasses.replace(MODELS[-1], name="absent", source="lab/absent")]
    (finding,) = look_at_hub(absent, offline=True)
    assert finding.level == "warning" and "absent" in finding.what
