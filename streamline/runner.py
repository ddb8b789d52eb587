"""Run a job on a pipeline, by a plan or as it is, and report what it took while it happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from .apply import apply
from .job import Job, call_arguments
from .plan import Plan
from .tracing import LiveTensors


@dataclass(frozen=True)
class Started:
    """The pipeline is called. weights_bytes: of all its networks."""

    job: Job
    plan: Plan | None
    weights_bytes: int


@dataclass(frozen=True)
class Step:
    """One denoising step is done: index counts from 0. Bytes include the weights."""

    index: int
    total: int
    seconds: float
    live_bytes: int
    peak_bytes: int
    """The most that was alive at once since the step before."""


@dataclass(frozen=True)
class Decoding:
    """Denoising is done; the latents become frames."""


@dataclass(frozen=True)
class Finished:
    """The frames are there. seconds: of the whole call; peak_bytes: since it started."""

    seconds: float
    peak_bytes: int


Event = Started | Step | Decoding | Finished


@dataclass(frozen=True)
class Result:
    """A video and what it took.

    frames: RGB images of width x height.
    seconds: of the whole call; step_seconds: of each denoising step; decode_seconds: of what follows them.
    peak_bytes: the most that was alive at once, weights included. Tensors are counted on a CPU, and
        what the allocator handed out on a GPU.
    weights_bytes: of all networks of the pipeline.
    plan: None for the pipeline as it is.
    """

    frames: tuple[Image.Image, ...]
    job: Job
    plan: Plan | None
    device: str
    seconds: float
    step_seconds: tuple[float, ...]
    decode_seconds: float
    peak_bytes: int
    weights_bytes: int

    @property
    def seed(self) -> int:
        return self.job.seed

    def to_dict(self) -> dict:
        """Everything but the frames, ready for JSON."""
        return {
            "job": self.job.to_dict(),
            "plan": None if self.plan is None else self.plan.to_dict(),
            "seed": self.seed,
            "device": self.device,
            "seconds": self.seconds,
            "step_seconds": list(self.step_seconds),
            "decode_seconds": self.decode_seconds,
            "peak_bytes": self.peak_bytes,
            "weights_bytes": self.weights_bytes,
        }


def run(
    pipe: DiffusionPipeline,
    job: Job,
    plan: Plan | None = None,
    image: Image.Image | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Make the video of a job.

    plan: how; None runs the pipeline untouched, as diffusers does.
    image: for models that start from one; cut to the job's shape around its middle.
    on_event: called with Started, a Step for each, Decoding and Finished, in this order; an exception it
        raises ends the run, and the pipeline is left as it was.

    The noise comes from a generator on the CPU, so a seed means the same on every device.
    Raises InputError when the model cannot do the job, UnsupportedError when the plan cannot be run.
    """
    arguments = call_arguments(pipe, job, image)
    emit = on_event or (lambda event: None)
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    device = pipe._execution_device
    clock = _Clock(device)
    steps: list[float] = []

    with contextlib.ExitStack() as stack:
        if plan is not None:
            stack.enter_context(apply(pipe, plan))
        memory = stack.enter_context(_memory(device, networks))
        stack.callback(_at_first_call(pipe.unet, clock.lap).remove)

        def step_done(pipe: DiffusionPipeline, index: int, timestep: object, tensors: dict) -> dict:
            steps.append(clock.lap())
            live, peak = memory.read()
            total = pipe.num_timesteps
            emit(Step(index, total, steps[-1], live, peak))
            if index + 1 == total:
                emit(Decoding())
            return tensors

        emit(Started(job, plan, memory.weights_bytes))
        started = time.perf_counter()
        clock.lap()
        output = pipe(
            **arguments,
            generator=torch.Generator("cpu").manual_seed(job.seed),
            callback_on_step_end=step_done,
        )
        decode_seconds = clock.lap()
        seconds = time.perf_counter() - started
        memory.read()
    emit(Finished(seconds, memory.highest))
    return Result(
        frames=tuple(output.frames[0]),
        job=job,
        plan=plan,
        device=str(device),
        seconds=seconds,
        step_seconds=tuple(steps),
        decode_seconds=decode_seconds,
        peak_bytes=memory.highest,
        weights_bytes=memory.weights_bytes,
    )


class _Clock:
    """Seconds between laps, once the device has caught up."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()

    def lap(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, time.perf_counter()
        return self._last - before


class _Memory:
    """Live and peak bytes, weights included, read from lap to lap; `highest` is the peak of all laps."""

    def __init__(self, weights_bytes: int, lap: Callable[[], tuple[int, int]]) -> None:
        self.weights_bytes = weights_bytes
        self.highest = 0
        self._lap = lap

    def read(self) -> tuple[int, int]:
        """Bytes alive now, and the most since the last reading."""
        live, peak = self._lap()
        self.highest = max(self.highest, peak)
        return live, peak


@contextlib.contextmanager
def _memory(device: torch.device, networks: list[nn.Module]) -> Iterator[_Memory]:
    counter = LiveTensors(networks)
    weights = counter.weights_bytes
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

        def allocator() -> tuple[int, int]:
            peak = torch.cuda.max_memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            return torch.cuda.memory_allocated(device), peak

        yield _Memory(weights, allocator)
        return

    def live_tensors() -> tuple[int, int]:
        live, peak = counter.live_bytes, counter.peak_bytes
        counter.reset_peak()
        return weights + live, weights + peak

    with counter:
        yield _Memory(weights, live_tensors)


def _at_first_call(network: nn.Module, action: Callable[[], object]) -> torch.utils.hooks.RemovableHandle:
    """Do something once, when a network is called for the first time: what came before is no step."""

    def hook(*_: object) -> None:
        handle.remove()
        action()

    handle = network.register_forward_pre_hook(hook)
    return handle
