"""Weights that lie in mapped files: the same numbers, no memory that only they take, and nothing left on the disk."""

import copy
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pipelines
import pytest
import torch
from crashing import DONE, KILLED, killed_at, with_largest_file
from networks import KINDS, random_plan
from peft import LoraConfig, inject_adapter_in_model
from test_offloading import networks_of, storages
from torch import nn

import streamline
from streamline import Plan, load
from streamline.families.running import run_network
from streamline.files import clear_temporary_files
from streamline.program.casting import FLOAT8, cast_layers, keep_in
from streamline.program.weights import weights_of
from streamline.weights import mapped, offloading
from streamline.weights.mapped import is_mapped, keep_on_disk
from streamline.weights.offloading import LEAST_FREE, GroupOffload, group_offload

ROOT = Path(__file__).parents[1]
OFFLOADED = Plan(residency="group offload")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def host_is_short(monkeypatch):
    """Detection finds no free host memory."""
    real = offloading.detect
    monkeypatch.setattr(offloading, "detect", lambda device: replace(real(device), free_bytes=0))


def are_mapped(pipe):
    return [is_mapped(tensor) for tensor in weights_of(networks_of(pipe)) if tensor.numel()]


def layer():
    torch.manual_seed(0)
    return nn.Linear(64, 32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_networks_give_the_original_result(kind, seed, tmp_path, record_property):
    case, plan = KINDS[kind](seed), random_plan(seed)
    expected, weights = case.original(), weights_of([case.network])
    assert keep_on_disk(weights, tmp_path) and all(map(is_mapped, weights))
    with torch.no_grad():
        result = run_network(
            case.network, plan.denoiser, plan.guidance == "sequential", weights=GroupOffload(torch.device("cpu")),
            **case.arguments,
        )  # fmt: skip
    error = ((case.read(result) - expected).abs().max() / expected.abs().max()).item()
    record_property(f"error: {kind} with weights offloaded to mapped files, relative, float32", error)
    assert error <= 1e-5
    assert torch.equal(case.original(), expected) and all(map(is_mapped, weights))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["svd", "animatediff", "controlnet", "video to video", "free noise", "sdxl", "pia"])
def test_pipelines_make_the_same_video(model, host_is_short, record_property):
    call = pipelines.PIPELINES[model]()
    original = call()
    for seed in (1, 2):
        with streamline.apply(call.pipe, replace(random_plan(seed), residency="group offload")):
            assert all(are_mapped(call.pipe))
            error = call().error(original)
        record_property("error: pipelines with weights offloaded to mapped files, relative, float32", error)
        assert error <= 1e-5
    assert all(are_mapped(call.pipe)) and call().same(original)


@pytest.mark.parametrize("storage", [FLOAT8, torch.bfloat16])
def test_weights_that_are_cast(storage, host_is_short):
    call = pipelines.text_to_video()
    keep_in(storage, call.pipe.unet, torch.float32)
    original = call()
    with streamline.apply(call.pipe, OFFLOADED):
        assert call().error(original) <= 1e-5
    kept = {(tensor.dtype, is_mapped(tensor)) for tensor in weights_of(cast_layers([call.pipe.unet]))}
    assert kept == {(storage, True)}
    assert call().same(original)


def test_weights_of_adapters(host_is_short):
    call = pipelines.text_to_video()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), call.pipe.unet)
    original = call()
    with streamline.apply(call.pipe, OFFLOADED):
        assert call().error(original) <= 1e-5
    assert all(is_mapped(tensor) for name, tensor in call.pipe.unet.named_parameters() if "lora" in name)


@pytest.mark.parametrize("system", ["this", "another"])
def test_every_kind_of_tensor_stays_what_it_was(system, tmp_path, monkeypatch):
    if system == "another":  # which neither says what is mapped, nor reserves room on a disk
        monkeypatch.setattr(mapped, "MAPS", tmp_path / "maps")
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    network = nn.ParameterDict(
        {
            "trained": nn.Parameter(torch.randn(4, 5)),
            "16 bits": torch.randn(3, 4).to(torch.bfloat16),
            "8 bits": torch.randn(3, 4).to(FLOAT8),
            "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "transposed": torch.randn(4, 6).t(),
            "expanded": torch.randn(1, 4).expand(5, 4),
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 7),
            "upper rows": base[:4],
            "lower rows": base[2:],
        }
    )
    for name, tensor in network.items():
        network[name] = nn.Parameter(tensor.data, requires_grad=name == "trained")
    network.tied = network["trained"]
    network.register_buffer("positions", torch.arange(9)[None])
    network.register_buffer("mask", torch.tensor([True, False]))
    weights = weights_of([network])
    before = [(tensor.clone(), tensor.stride(), tensor.storage_offset(), tensor.requires_grad) for tensor in weights]

    assert keep_on_disk(weights, tmp_path) and not list(tmp_path.iterdir())

    assert all(new is old for new, old in zip(weights_of([network]), weights, strict=True))
    assert all(is_mapped(tensor) == (tensor.numel() > 0) for tensor in weights)
    for tensor, (value, *layout) in zip(weights, before, strict=True):
        assert [tensor.stride(), tensor.storage_offset(), tensor.requires_grad] == layout
        assert tensor.dtype == value.dtype and torch.equal(tensor.double(), value.double())
    with torch.no_grad():
        network["upper rows"][3] = 7.0
        assert (network["lower rows"][1] == 7).all()
    assert network.to("cpu").tied is network["trained"] and is_mapped(network.tied)
    (network["trained"] * network["trained"]).sum().backward()
    assert torch.equal(network["trained"].grad, 2 * network["trained"])
    assert not any(map(is_mapped, weights_of([copy.deepcopy(network)])))


@pytest.mark.parametrize("room, is_short", [(-1, True), (0, False)])
def test_they_are_mapped_where_there_is_no_room_beside_them(room, is_short):
    pipe = pipelines.text_to_video().pipe
    with group_offload(pipe, (), host_bytes=LEAST_FREE + room):
        assert set(are_mapped(pipe)) == {is_short}


def test_what_is_mapped_is_not_written_again(host_is_short):
    call = pipelines.image_to_video()
    with streamline.apply(call.pipe, OFFLOADED):
        first = call()
        before = storages(*networks_of(call.pipe))
    with streamline.apply(call.pipe, OFFLOADED):
        assert storages(*networks_of(call.pipe)) == before
        assert call().same(first)
    assert storages(*networks_of(call.pipe)) == before
    call.pipe.vae.to(torch.float64).to(torch.float32)  # what was cast lies in memory again
    with streamline.apply(call.pipe, OFFLOADED):
        assert all(are_mapped(call.pipe)) and call().same(first)


@ON_LINUX
def test_weights_in_the_files_of_their_model_are_left_there(tmp_path):
    pipe = load("tiny-svd", device="cpu", dtype=torch.float16)  # as its files have them
    weights = weights_of([pipe.unet, pipe.vae])
    before = [tensor.data_ptr() for tensor in weights]
    assert keep_on_disk(weights, tmp_path)
    assert [tensor.data_ptr() for tensor in weights] == before
    pipe.unet.to(torch.float32)
    assert keep_on_disk(weights, tmp_path) and all(map(is_mapped, pipe.unet.parameters()))


@ON_LINUX
def test_memory_falls_by_the_weights_and_nothing_is_left_when_the_process_is_killed(tmp_path):
    """Under a limit of 16 MiB more while they are written, and of half of their size while they are offloaded."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**16),  # glibc keeps none of what was freed
    }
    command = [sys.executable, ROOT / "tests" / "short_of_memory.py", tmp_path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        found = json.loads(process.stdout.readline())
        assert "weights." in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGKILL)
    assert found["is_kept"] and found["left"] == [] and not list(tmp_path.iterdir())
    assert found["before"] - found["after"] >= 0.9 * found["weights"] > 180e6
    assert found["most"] - found["after"] <= found["groups"] + 0.05 * found["weights"] < 0.5 * found["weights"]
    assert found["is_same"] and found["error"] <= 1e-5
    if found["can_let_go"]:
        assert found["files"] - found["files_let_go"] >= 0.9 * found["weights"]


def test_what_a_process_leaves_that_is_killed_at_any_line_is_empty_and_cleared_away(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "MAPS", tmp_path / "maps")  # as outside of Linux; its lines are many
    network, line, status, named = layer(), 0, KILLED, 0
    expected = [tensor.clone() for tensor in network.parameters()]
    files = {mapped.__file__}

    def work():
        keep_on_disk(weights_of([network]), tmp_path)
        assert all(map(torch.equal, network.parameters(), expected)) and all(map(is_mapped, network.parameters()))

    while status == KILLED:
        line += 1
        status = killed_at(line, files, work)
        for path in tmp_path.iterdir():
            named += 1
            assert not any(path.read_bytes())  # nothing is written before it has lost its name
        clear_temporary_files(tmp_path)
        assert not list(tmp_path.iterdir())
    assert status == DONE and line > 50 and named


@pytest.mark.parametrize("why", ["no folder", "no room", "in memory"])
def test_without_a_disk_all_goes_on_as_before(why, tmp_path, monkeypatch, caplog):
    folder = tmp_path
    if why == "no folder":
        folder = tmp_path / "file" / "folder"
        (tmp_path / "file").touch()
    elif why == "no room":
        monkeypatch.setattr(mapped, "LEFT_FREE", 2**62)
    elif not Path("/dev/shm").is_dir():
        pytest.skip("has no folder in memory")
    else:
        folder = Path("/dev/shm")
    monkeypatch.setenv("STREAMLINE_CACHE", str(folder))
    call = pipelines.text_to_video()
    before, original = storages(*networks_of(call.pipe)), call()
    with caplog.at_level(logging.WARNING), group_offload(call.pipe, (), host_bytes=0):
        assert storages(*networks_of(call.pipe)) == before
    said = [record.getMessage() for record in caplog.records if record.name == mapped.__name__]
    assert len(said) == 1 and str(folder) in said[0] and "\n" not in said[0]
    assert call().same(original)
    assert not list(folder.glob("*weights*"))


@ON_LINUX
def test_a_disk_that_becomes_full_takes_what_it_can(tmp_path):
    network = nn.Sequential(layer(), nn.Linear(2000, 300))
    expected = copy.deepcopy(network.state_dict())

    def work():
        assert not keep_on_disk(weights_of([network]), tmp_path)
        kept = {name for name, tensor in network.named_parameters() if is_mapped(tensor)}
        assert "1.weight" not in kept
        assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())

    assert with_largest_file(10**6, work) == DONE
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_a_gpu_is_sent_weights_from_mapped_files(host_is_short, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    call = pipelines.text_to_video()
    call.pipe.to("cuda")
    original = call()
    with streamline.apply(call.pipe, OFFLOADED):
        assert all(are_mapped(call.pipe))
        assert call().error(original) <= 1e-4
        assert all(are_mapped(call.pipe))  # nothing was pinned
    assert {tensor.device.type for tensor in weights_of(networks_of(call.pipe))} == {"cuda"}
