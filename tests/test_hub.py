"""Models by hub id, from a hub on this machine: what is needed is fetched once, and refusals say what to do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import hub
import pytest
import torch
import untrained

from streamline import ModelError, load

ROOT = Path(__file__).parents[1]
BROKEN = "lab/far/unet/diffusion_pytorch_model.safetensors"

# One process loads everything in turn: the hub's address is settled when huggingface_hub is imported.
LOAD = """
import json, sys
from streamline import ModelError, load
for name, options in json.load(sys.stdin):
    try:
        pipe = load(name, device="cpu", **options)
        print(json.dumps([type(pipe).__name__, str(pipe.unet.dtype)]))
    except ModelError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What came of every load, by what was asked for, and the files that were sent."""
    models = tmp_path_factory.mktemp("hub")
    svd = untrained.svd()
    svd.save_pretrained(models / "lab" / "video")
    svd.to(dtype=torch.float16).save_pretrained(models / "lab" / "video", variant="fp16")
    (models / "lab" / "video" / "everything.safetensors").write_bytes(b"the same again in one file")
    untrained.svd().save_pretrained(models / "lab" / "locked")
    untrained.svd().save_pretrained(models / "lab" / "far")
    untrained.image_model().save_pretrained(models / "lab" / "image")
    untrained.motion_adapter().save_pretrained(models / "lab" / "motion")
    (models / "lab" / "empty").mkdir()
    untrained.svd().save_pretrained(models / "lab" / "pickled")
    for weights in (models / "lab" / "pickled").glob("unet/*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))

    asked = [
        ("lab/video", {"offline": True}),
        ("lab/video", {}),
        ("lab/video", {"offline": True}),
        ("animatediff", {"base": "lab/image", "motion_adapter": "lab/motion"}),
        ("lab/locked", {}),
        ("lab/nothing", {}),
        ("lab/empty", {}),
        ("lab/image", {}),
        ("lab/pickled", {}),
        (str(models / "lab" / "pickled"), {}),
        ("lab/far", {}),
        ("lab/far", {"offline": True}),
    ]
    with hub.serve(models, gated=("lab/locked",), broken=(BROKEN,)) as (address, sent):
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path_factory.mktemp("home"))}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", LOAD],
            input=json.dumps(asked),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], sent


def test_a_model_is_fetched_once_and_then_here(answers):
    (before, loaded, after, *_), sent = answers
    assert "is not on this machine" in before
    assert loaded == after == ["StableVideoDiffusionPipeline", "torch.float32"]
    weights = [file for file in sent if file.startswith("lab/video/") and file.endswith(".safetensors")]
    assert weights and len(weights) == len(set(weights))


def test_only_the_files_that_are_needed_are_fetched(answers):
    _, sent = answers
    assert "lab/video/unet/diffusion_pytorch_model.safetensors" in sent
    assert not [file for file in sent if ".fp16." in file or "everything" in file]


def test_an_image_model_and_an_adapter_are_joined(answers):
    assert answers[0][3] == ["AnimateDiffPipeline", "torch.float32"]


def test_refusals_say_what_to_do(answers):
    locked, nothing, empty, image, *pickled = answers[0][4:-2]
    assert "wants its licence accepted" in locked and "hf auth login" in locked
    assert "shows no model lab/nothing" in nothing
    assert "no complete set" in empty
    assert "makes images" in image
    assert len(pickled) == 2 and all("only pickled weights (unet/" in sentence for sentence in pickled)


def test_a_download_that_breaks_goes_on_and_is_whole(answers):
    told, sent = answers
    assert told[-2] == told[-1] == ["StableVideoDiffusionPipeline", "torch.float32"]
    assert sent.count(BROKEN) == 2 and len([file for file in sent if file.startswith("lab/far/vae")]) == 2


@pytest.fixture
def tried(monkeypatch):
    """What this process tried to reach over the network; none of it is reached."""
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("There is no network.")

    for owner, name in ((socket, "getaddrinfo"), (socket.socket, "connect"), (socket, "create_connection")):
        monkeypatch.setattr(owner, name, refuse)
    return tried


def test_offline_nothing_is_asked_of_the_network(tried):
    load("tiny-animatediff", device="cpu", offline=True)
    with pytest.raises(ModelError):
        load("nobody/nothing", device="cpu", offline=True)
    assert tried == []


@pytest.mark.parametrize(
    "name", ["https://example.com/a", "http://127.0.0.1/a/b", "file:///etc/passwd", "a/b/c", "../a"]
)
def test_models_come_from_folders_and_the_hub_alone(tried, name):
    with pytest.raises(ModelError, match="is not a folder with a complete diffusers model"):
        load(name, device="cpu")
    assert tried == []
