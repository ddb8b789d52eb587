"""The most memory that a method takes, by two counts.

On a GPU: what PyTorch's allocator gave, and what NVML says of the whole card. On a CPU: tensors, counted, and the
peak of the whole process (VmHWM), for which each method has a process of its own: glibc keeps what is freed.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import pynvml
import torch
from diffusers import DiffusionPipeline

from ...hardware.process_memory import peak_bytes, reset_peak
from .cases import Case
from .methods import Method

POLL_SECONDS = 0.005

OpenPipeline = Callable[[], DiffusionPipeline]


@dataclass(frozen=True)
class Peak:
    """In bytes. tensor_bytes: weights and activations. weights_bytes: their part of it.

    process_bytes: on a CPU the whole process, on a GPU the rise of what is used of the card; None where the system
        does not tell. started_bytes: what the process held before the call.
    """

    tensor_bytes: int
    weights_bytes: int
    process_bytes: int | None
    started_bytes: int | None

    def to_dict(self) -> dict:
        return asdict(self)


def peak_in_fresh_process(open_pipeline: OpenPipeline, method: Method, case: Case) -> Peak:
    """On the CPU. open_pipeline: loads the pipeline there, and must be a function that pickle knows."""
    with ProcessPoolExecutor(1, _fresh_processes()) as fresh:
        return fresh.submit(_measure, open_pipeline, method, case).result()


def peak_on_gpu(pipe: DiffusionPipeline, method: Method, case: Case) -> Peak:
    """On the GPU that the pipeline is on; needs nothing of its own."""
    torch.cuda.empty_cache()
    with card_peak(pipe._execution_device) as card:
        result = method(pipe, case.job, case.image)
    return Peak(result.peak_bytes, result.weights_bytes, card.peak_bytes, card.started_bytes)


@dataclass
class CardPeak:
    """Bytes used of a card by all processes, by NVML. None where NVML does not tell."""

    started_bytes: int | None = None
    peak_bytes: int | None = None


@contextmanager
def card_peak(device: torch.device) -> Iterator[CardPeak]:
    """Watch a card from another thread: what is used at the start, and the most at any look."""
    found, stop = CardPeak(), threading.Event()
    handle = _card(device)
    if handle is None:
        yield found
        return
    found.started_bytes = found.peak_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).used

    def look() -> None:
        while not stop.wait(POLL_SECONDS):
            found.peak_bytes = max(found.peak_bytes, pynvml.nvmlDeviceGetMemoryInfo(handle).used)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()
        pynvml.nvmlShutdown()


def _card(device: torch.device) -> pynvml.c_nvmlDevice_t | None:
    """NVML's handle of a GPU, to be shut down after use; None where NVML cannot tell."""
    if device.type != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return None


def _fresh_processes() -> multiprocessing.context.BaseContext:
    """Where the system can: forked from a process that has imported this and done nothing else, which saves time."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _measure(open_pipeline: OpenPipeline, method: Method, case: Case) -> Peak:
    pipe = open_pipeline()
    started = reset_peak()
    result = method(pipe, case.job, case.image)
    return Peak(result.peak_bytes, result.weights_bytes, None if started is None else peak_bytes(), started)
