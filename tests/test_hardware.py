"""Devices from readings as machines of every kind give them, and from the machine that the tests run on."""

import json

import psutil
import pytest
import torch

from streamline import Device, DeviceError, StreamlineError, detect
from streamline.cli import main
from streamline.hardware.cards import emulate
from streamline.hardware.cgroups import Limit
from streamline.hardware.detection import (
    CONTEXT_BYTES,
    CudaReading,
    Memory,
    cpu_device,
    cpu_flags,
    cuda_device,
    default_budget,
    detect_all,
    mps_device,
    why_no_cuda,
)
from streamline.hardware.nvml import Gpu, read_gpus

GIB = 2**30
MIB = 2**20


# --- the CPU ---


def test_the_smaller_of_machine_and_container_counts():
    memory = Memory(total_bytes=64 * GIB, available_bytes=3 * GIB, own_bytes=GIB)
    limits = [Limit(16 * GIB, 6 * GIB, "inner"), Limit(32 * GIB, 31 * GIB, "outer")]
    device = cpu_device("CPU", memory, limits)
    sources = dict(device.sources)
    assert (device.total_bytes, sources["total_bytes"]) == (16 * GIB, "inner")
    assert (device.free_bytes, sources["free_bytes"]) == (GIB, "outer")
    assert device.used_by_others_bytes == 14 * GIB and device.own_bytes == GIB

    device = cpu_device("CPU", memory, limits[:1])
    assert (device.free_bytes, dict(device.sources)["free_bytes"]) == (3 * GIB, "psutil")
    exceeded = cpu_device("CPU", memory, [Limit(GIB, 2 * GIB, "full")])
    assert exceeded.free_bytes == 0 and default_budget(exceeded) >= 0


def test_processor_flags_tell_native_types():
    memory = Memory(8 * GIB, 4 * GIB, GIB)
    x86 = cpu_flags("processor\t: 0\nmodel name\t: Intel\nflags\t\t: fpu avx512_bf16 amx_tile\n\nflags\t: none\n")
    arm = cpu_flags("processor\t: 0\nFeatures\t: fp asimd asimdhp bf16\n")
    assert cpu_device("CPU", memory, [], x86).dtypes == ("float32", "bfloat16")
    assert cpu_device("CPU", memory, [], arm).dtypes == ("float32", "float16", "bfloat16")
    assert cpu_device("CPU", memory, [], cpu_flags("")).dtypes == ("float32",)


def test_this_cpu():
    device = detect("cpu")
    system = psutil.virtual_memory()
    assert 0 < device.free_bytes <= device.total_bytes <= system.total
    assert device.used_by_others_bytes + device.free_bytes <= device.total_bytes
    assert device.context_bytes == 0 and "float32" in device.dtypes and device.name
    # What is taken here is no longer free, and not taken by others.
    taken = torch.ones(256 * MIB // 4)
    after = detect("cpu")
    assert after.own_bytes - device.own_bytes >= 0.9 * taken.nbytes or after.free_bytes == 0


# --- CUDA, from readings ---


def reading(**given):
    about = {
        "index": 0,
        "name": "NVIDIA GeForce RTX 3060",
        "uuid": "11111111-aaaa-bbbb-cccc-000000000000",
        "total_bytes": 12 * GIB - 300 * MIB,  # without what the driver keeps
        "capability": (8, 6),
        "reserved_bytes": 0,
        "runtime": "CUDA 13.0",
    }
    return CudaReading(**about | given)


def gpu(**given):
    about = {
        "uuid": "11111111-aaaa-bbbb-cccc-000000000000",
        "name": "NVIDIA GeForce RTX 3060",
        "total_bytes": 12 * GIB,
        "free_bytes": 11 * GIB,
        "own_bytes": None,
        "driver": "580.95.05",
    }
    return Gpu(**about | given)


def test_a_gpu_that_this_process_has_not_touched():
    device = cuda_device(reading(), [gpu()])
    assert (device.total_bytes, device.free_bytes) == (12 * GIB, 11 * GIB)
    assert device.used_by_others_bytes == GIB and device.own_bytes == 0
    assert device.context_bytes == CONTEXT_BYTES and dict(device.sources)["context_bytes"] == "assumed"
    assert device.version == "driver 580.95.05, CUDA 13.0"


def test_a_gpu_half_used_by_a_desktop():
    device = cuda_device(reading(), [gpu(free_bytes=6 * GIB)])
    assert device.used_by_others_bytes == 6 * GIB
    assert 5 * GIB < default_budget(device) < 6 * GIB


@pytest.mark.parametrize("own_bytes", [None, 0, 3 * GIB])
def test_what_this_process_holds_is_its_own(own_bytes):
    """With and without the driver telling what processes hold: in a container their numbers do not match."""
    device = cuda_device(reading(reserved_bytes=5 * GIB // 2), [gpu(free_bytes=8 * GIB, own_bytes=own_bytes)])
    assert device.context_bytes == GIB // 2
    assert dict(device.sources)["context_bytes"].startswith("NVML" if own_bytes else "assumed")
    assert device.own_bytes == 3 * GIB and device.used_by_others_bytes == GIB
    untouched = cuda_device(reading(), [gpu()])
    assert default_budget(device) == default_budget(untouched)  # a loaded model does not shrink it


def test_gpus_are_matched_by_uuid_not_by_index():
    """CUDA_VISIBLE_DEVICES=2,0, and CUDA's own order of the fastest first: index 0 here is NVML's last."""
    gpus = [gpu(uuid=f"{number}", total_bytes=(number + 1) * 4 * GIB, free_bytes=GIB) for number in range(3)]
    assert cuda_device(reading(index=0, uuid="2"), gpus).total_bytes == 12 * GIB
    assert cuda_device(reading(index=1, uuid="0"), gpus).total_bytes == 4 * GIB


@pytest.mark.parametrize("gpus", [[], [gpu(uuid="another")]])
def test_without_nvml_torch_is_asked(gpus):
    device = cuda_device(reading(total_bytes=8 * GIB, free_bytes=6 * GIB), gpus)
    assert (device.total_bytes, device.free_bytes, device.version) == (8 * GIB, 6 * GIB, "CUDA 13.0")
    assert dict(device.sources)["free_bytes"] == "torch.cuda.mem_get_info"
    assert device.own_bytes == CONTEXT_BYTES  # asking has made a context


def test_native_types_depend_on_the_generation():
    assert cuda_device(reading(capability=(7, 5)), [gpu()]).dtypes == ("float32", "float16")
    assert "bfloat16" in cuda_device(reading(capability=(12, 0)), [gpu()]).dtypes


def test_why_there_is_no_cuda_is_one_sentence():
    sentences = {
        why_no_cuda(None, [], None),
        why_no_cuda(None, [gpu()], None),
        why_no_cuda("13.0", [gpu()], ""),
        why_no_cuda("13.0", [gpu()], None),
    }
    assert len(sentences) == 4 and all(sentence.endswith(".") for sentence in sentences)
    assert "CUDA_VISIBLE_DEVICES=''" in why_no_cuda("13.0", [gpu()], "")


def test_nvml_without_a_driver_is_silent():
    assert all(0 < gpu.total_bytes >= gpu.free_bytes for gpu in read_gpus())


@pytest.mark.gpu
def test_this_gpu():
    torch.ones(64 * MIB, device="cuda")
    device = detect("cuda")
    assert 0 < device.free_bytes < device.total_bytes
    assert device.own_bytes >= 256 * MIB and device.context_bytes > 0


# --- Apple ---


def test_an_apple_gpu_shares_main_memory():
    busy = mps_device(12 * GIB, GIB, Memory(16 * GIB, 5 * GIB, GIB), "15.6")
    assert (busy.free_bytes, busy.used_by_others_bytes, busy.own_bytes) == (5 * GIB, 6 * GIB, GIB)
    idle = mps_device(12 * GIB, GIB, Memory(16 * GIB, 14 * GIB, GIB), "15.6")
    assert (idle.free_bytes, idle.used_by_others_bytes) == (11 * GIB, 0)


# --- all of them ---


@pytest.mark.parametrize("wanted", ["banana", "", "meta", "xla:0", "cpu:7", "cuda:99", "mps:3", "cuda:-1", 3.5, "0"])
def test_a_device_that_is_not_here_is_one_sentence(wanted):
    with pytest.raises(DeviceError) as error:
        detect(wanted)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_gpu_is_told_only_to_those_who_ask_for_one():
    assert detect().kind in ("cpu", "mps")
    with pytest.raises(StreamlineError, match=r"GPU|here"):
        detect(torch.device("cuda"))


def test_all_devices_begin_with_the_one_that_is_used():
    first, *_, last = (*detect_all(), None)
    assert last is None and (first.kind, first.index, first.name) == (detect().kind, detect().index, detect().name)
    assert detect_all()[-1].kind == "cpu"


@pytest.mark.parametrize("device", [*detect_all(), emulate("8GiB")[0], cuda_device(reading(), [gpu()])])
def test_a_device_is_the_same_after_json(device):
    assert Device.from_dict(json.loads(json.dumps(device.to_dict()))) == device
    hash(device)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "tpu"},
        {"total_bytes": -1},
        {"free_bytes": "8"},
        {"dtypes": ["int4"]},
        {"dtypes": None},
        {"sources": 3},
        {"colour": "red"},
        {"index": True},
    ],
)
def test_a_device_that_makes_no_sense_is_refused(change):
    data = detect("cpu").to_dict()
    with pytest.raises(DeviceError):
        Device.from_dict(data | change)
    with pytest.raises(DeviceError):
        Device.from_dict({name: data[name] for name in ("kind", "name")})
    with pytest.raises(DeviceError):
        Device.from_dict([])


# --- the command ---


def test_devices_are_listed(capsys):
    assert main(["devices", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["devices"]
    assert [row["id"] for row in rows][-1] == "cpu"
    assert all(row["total_bytes"] >= row["free_bytes"] and row["sources"]["free_bytes"] for row in rows)
    assert main(["devices"]) == 0
    table = capsys.readouterr().out
    assert all(row["name"] in table for row in rows)


def test_an_emulated_card_is_shown_with_its_rates(capsys):
    assert main(["devices", "--emulate", "8GiB", "--rates", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["devices"]
    assert row["emulated"] and row["rates"]["source"] == "published"
    assert main(["devices", "--emulate", "8GiB", "--rates"]) == 0
    assert "published" in capsys.readouterr().out
    assert main(["devices", "--emulate", "8 gigs"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
