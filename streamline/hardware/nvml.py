"""What NVIDIA's management library says about GPUs, without starting CUDA and so without taking any of their memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pynvml


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one, at one moment.

    uuid: without the "GPU-" or "MIG-" in front, as torch gives it; indices of the two need not agree.
    own_bytes: held by this process; None where the driver does not tell, as in most containers and on Windows.
    """

    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    own_bytes: int | None
    driver: str


def read_gpus() -> tuple[Gpu, ...]:
    """Return all GPUs whose memory NVML can tell; none without a driver, or where memory is shared with the CPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        gpus = []
        for handle in _handles():
            try:
                gpus.append(_read(handle, driver))
            except pynvml.NVMLError:  # this one has no memory of its own, or has fallen off the bus
                continue
        return tuple(gpus)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _handles() -> Iterator[pynvml.c_nvmlDevice_t]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError:
            continue
        yield handle
        try:
            slices = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        except pynvml.NVMLError:
            slices = 0
        for number in range(slices):
            try:
                yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except pynvml.NVMLError:  # no such slice has been made
                continue


def _read(handle: pynvml.c_nvmlDevice_t, driver: str) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle).removeprefix("GPU-").removeprefix("MIG-"),
        name=pynvml.nvmlDeviceGetName(handle),
        total_bytes=memory.total,
        free_bytes=memory.free,
        own_bytes=_own_bytes(handle),
        driver=driver,
    )


def _own_bytes(handle: pynvml.c_nvmlDevice_t) -> int | None:
    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    return next((process.usedGpuMemory for process in processes if process.pid == os.getpid()), None)
