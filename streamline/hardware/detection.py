"""Detection: which devices are here, and what of them is free.

Every kind of device has a function that takes readings (of NVML, torch, psutil, control groups) and returns a
Device, and `detect` takes the readings.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ..errors import DeviceError
from .cgroups import Limit, read_limits
from .device import DTYPES, Device
from .nvml import Gpu, read_gpus

GIB = 2**30
CONTEXT_BYTES = 512 * 2**20
"""What a CUDA context takes where it cannot be measured: 0.3 to 0.5 GiB by card and driver, kernels included."""


@dataclass(frozen=True)
class Memory:
    """Main memory as the operating system sees it. own_bytes: resident in this process."""

    total_bytes: int
    available_bytes: int
    own_bytes: int


@dataclass(frozen=True)
class CudaReading:
    """What torch says about a CUDA device.

    reserved_bytes: held by torch's allocator; more than 0 only once this process has a context on the device.
    free_bytes: None unless NVML had nothing to say, as asking torch for it makes a context.
    """

    index: int
    name: str
    uuid: str
    total_bytes: int
    capability: tuple[int, int]
    reserved_bytes: int
    runtime: str
    free_bytes: int | None = None


def detect(device: str | torch.device | None = None) -> Device:
    """Return a device and what of its memory is free now.

    device: "cpu", "cuda", "cuda:1", "mps"; by default the CUDA GPU if there is one, else Apple's, else the CPU.

    Raises DeviceError, with the reason, for a device that is not here or that torch cannot use.
    """
    kind, index = _named(device)
    if kind == "cuda":
        return _detect_cuda(index, read_gpus())
    if kind == "mps":
        return mps_device(
            torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory(), _memory(), platform.mac_ver()[0]
        )
    return cpu_device(_cpu_name(), _memory(), read_limits(), cpu_flags(_cpuinfo()))


def detect_all() -> tuple[Device, ...]:
    """Return every device that torch can use here, the one that `detect` prefers first."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    names += ["mps"] if torch.backends.mps.is_available() else []
    return tuple(map(detect, [*names, "cpu"]))


def default_budget(device: Device) -> int:
    """Return bytes that this process may well hold on a device: all that others leave, less some headroom for them.

    What the process holds already belongs to its budget, so that a loaded model does not shrink it. The headroom
    is for a desktop and its browser, which take more at any moment: a twentieth of a GPU, at most 1 GiB, and
    a tenth of main memory (which is also a Mac's GPU memory), at most 2 GiB.
    """
    available = device.total_bytes - device.used_by_others_bytes
    if device.kind == "cuda":
        return max(0, available - min(device.total_bytes // 20, GIB))
    return max(0, available - min(device.total_bytes // 10, 2 * GIB))


def cuda_device(reading: CudaReading, gpus: Sequence[Gpu]) -> Device:
    """Return a CUDA device from what torch and NVML say; without NVML, the reading's free_bytes are needed.

    gpus: all that NVML sees. They are matched by UUID, for CUDA_VISIBLE_DEVICES hides and reorders torch's.
    """
    gpu = next((gpu for gpu in gpus if gpu.uuid == reading.uuid), None)
    total, free, source = (
        (reading.total_bytes, reading.free_bytes, "torch.cuda.mem_get_info")
        if gpu is None
        else (gpu.total_bytes, gpu.free_bytes, "NVML")
    )
    held = None if gpu is None else gpu.own_bytes
    is_measured = held is not None and held > reading.reserved_bytes
    context = held - reading.reserved_bytes if is_measured else CONTEXT_BYTES
    has_context = is_measured or reading.reserved_bytes > 0 or gpu is None
    own = reading.reserved_bytes + context if has_context else 0
    dtypes = DTYPES if reading.capability >= (8, 0) else ("float32", "float16")
    driver = f"driver {gpu.driver}, " if gpu else ""
    return Device(
        kind="cuda",
        index=reading.index,
        name=reading.name,
        total_bytes=total,
        free_bytes=free,
        used_by_others_bytes=max(0, total - free - own),
        context_bytes=context,
        dtypes=dtypes,
        version=driver + reading.runtime,
        sources={
            "total_bytes": source,
            "free_bytes": source,
            "used_by_others_bytes": f"{source}: neither free nor held by this process, the driver's own included",
            "context_bytes": "NVML: held by this process outside torch's allocator" if is_measured else "assumed",
            "dtypes": f"compute capability {reading.capability[0]}.{reading.capability[1]}",
        },
    )


def mps_device(recommended: int, own: int, memory: Memory, version: str) -> Device:
    """Apple's GPU, which shares main memory with everything else.

    recommended: bytes that Metal recommends to stay within. own: bytes this process holds. version: of macOS.
    """
    free = max(0, min(recommended - own, memory.available_bytes))
    metal = "torch.mps.recommended_max_memory"
    return Device(
        kind="mps",
        index=0,
        name="Apple GPU",
        total_bytes=recommended,
        free_bytes=free,
        used_by_others_bytes=max(0, recommended - free - own),
        context_bytes=0,
        dtypes=DTYPES,
        version=f"macOS {version}",
        sources={
            "total_bytes": metal,
            "free_bytes": f"the smaller of {metal} less torch.mps.driver_allocated_memory, and psutil's available",
            "used_by_others_bytes": "neither free nor held by this process",
            "context_bytes": "none: Metal's own is part of torch.mps.driver_allocated_memory",
            "dtypes": "Metal",
        },
    )


def cpu_device(name: str, memory: Memory, limits: Sequence[Limit], flags: Sequence[str] = ()) -> Device:
    """Main memory, or what a container leaves of it: the smaller counts, for the total and for what is free.

    limits: of all control groups around this process. flags: of the processor, as in /proc/cpuinfo.
    """
    totals = {"psutil": memory.total_bytes} | {limit.source: limit.limit_bytes for limit in limits}
    frees = {"psutil": memory.available_bytes} | {limit.source: limit.free_bytes for limit in limits}
    smallest, tightest = min(totals, key=totals.get), min(frees, key=frees.get)
    total, free = totals[smallest], min(frees[tightest], totals[smallest])
    has_half, has_bfloat = {"avx512_fp16", "asimdhp"} & set(flags), {"avx512_bf16", "amx_bf16", "bf16"} & set(flags)
    return Device(
        kind="cpu",
        index=0,
        name=name,
        total_bytes=total,
        free_bytes=free,
        used_by_others_bytes=max(0, total - free - memory.own_bytes),
        context_bytes=0,
        dtypes=("float32", *["float16"] * bool(has_half), *["bfloat16"] * bool(has_bfloat)),
        sources={
            "total_bytes": smallest,
            "free_bytes": tightest,
            "used_by_others_bytes": "neither free nor resident in this process",
            "context_bytes": "none",
            "dtypes": "processor flags" if flags else "assumed",
        },
    )


def why_no_cuda(built_for: str | None, gpus: Sequence[Gpu], visible: str | None) -> str:
    """Return why torch sees no CUDA device, in a sentence.

    built_for: the CUDA version of torch, None for a build without. visible: CUDA_VISIBLE_DEVICES.
    """
    if not gpus:
        return "There is no NVIDIA GPU with a working driver on this machine."
    if built_for is None:
        return f"There is a {gpus[0].name} here, but this PyTorch is built without CUDA; install one that has it."
    if visible is not None:
        return f"There is a {gpus[0].name} here, but CUDA_VISIBLE_DEVICES={visible!r} hides it."
    return (
        f"There is a {gpus[0].name} here, but its driver {gpus[0].driver} cannot run CUDA {built_for}, "
        "which this PyTorch is built for; update the driver."
    )


def cpu_flags(cpuinfo: str) -> tuple[str, ...]:
    """Return the features of the first processor in /proc/cpuinfo, under the name that x86 or ARM have for them."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return tuple(match[1].split()) if match else ()


def _named(device: str | torch.device | None) -> tuple[str, int]:
    """Kind and index of a device that is here."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device is None:
        return ("cuda" if has_cuda else "mps" if has_mps else "cpu"), 0
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"A device is cpu, cuda, cuda:1, mps or alike, not {str(device)[:80]!r}.") from error
    counts = {"cuda": torch.cuda.device_count() if has_cuda else 0, "mps": int(has_mps), "cpu": 1}
    if wanted.type not in counts:
        raise DeviceError(f"A device is of kind cpu, cuda or mps, not {wanted.type}.")
    count = counts[wanted.type]
    if count == 0 and wanted.type == "cuda":
        raise DeviceError(why_no_cuda(torch.version.cuda, read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    if count == 0:
        raise DeviceError("There is no Apple GPU that this PyTorch can use.")
    if (wanted.index or 0) >= count:
        last = f"{wanted.type}:{count - 1}"
        raise DeviceError(f"There is no {wanted} here; the last one is {last}.")
    return wanted.type, wanted.index or 0


def _detect_cuda(index: int, gpus: Sequence[Gpu]) -> Device:
    try:
        properties = torch.cuda.get_device_properties(index)
        uuid = str(getattr(properties, "uuid", ""))  # a GPU that ZeroGPU only promises has none
        is_known = any(gpu.uuid == uuid for gpu in gpus)
        free = None if is_known else torch.cuda.mem_get_info(index)[0]
        reserved = torch.cuda.memory_reserved(index)
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DeviceError(f"The GPU cuda:{index} cannot be used: {reason.rstrip('.')}.") from error
    reading = CudaReading(
        index=index,
        name=properties.name,
        uuid=uuid,
        total_bytes=properties.total_memory,
        capability=(properties.major, properties.minor),
        reserved_bytes=reserved,
        runtime=f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}",
        free_bytes=free,
    )
    return cuda_device(reading, gpus)


def _memory() -> Memory:
    system = psutil.virtual_memory()
    process = psutil.Process().memory_info()
    # Pages of files (libraries, mapped weights) count as available already.
    return Memory(system.total, system.available, process.rss - getattr(process, "shared", 0))


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()
