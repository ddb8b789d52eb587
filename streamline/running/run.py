"""Run a job on a pipeline, by a plan or as it is, and report what it took while it happens."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from PIL import Image
from torch import Tensor, nn

from ..applying.apply import apply, is_applied
from ..applying.fallback import ADVICE, Tightened
from ..applying.resuming import Checkpoint
from ..applying.whereabouts import whereabouts
from ..cost.observing import keep_observation
from ..errors import (
    Cancelled,
    OutOfMemory,
    UnsupportedError,
    freeing_what_was_cancelled,
    is_out_of_memory,
    telling_out_of_memory,
)
from ..families.networks import call_arguments
from ..hardware.cap import capped
from ..hardware.detection import detect
from ..hardware.live_tensors import LiveTensors
from ..hardware.process_memory import give_back
from ..job import Job
from ..plan import Plan
from ..prediction import Prediction
from ..sampler import sampler_arguments
from ..sizes import parse_bytes
from .watching import Disturbed, Watch


@dataclass(frozen=True)
class Started:
    """The pipeline is called. weights_bytes: of all its networks."""

    job: Job
    plan: Plan | None
    weights_bytes: int


@dataclass(frozen=True)
class Step:
    """One denoising step is done: index counts from 0. Bytes include the weights.

    peak_bytes: the most that was alive at once so far.
    latents: what the scheduler expects the clean latents to be (else those of the step), for `preview`, on the
        device; no copy, so hold on to them no longer than needed.
    """

    index: int
    total: int
    seconds: float
    live_bytes: int
    peak_bytes: int
    latents: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Decoding:
    """Denoising is done; the latents become frames."""


@dataclass(frozen=True)
class Finished:
    """The frames are there. seconds: of the whole call; peak_bytes: since it started."""

    seconds: float
    peak_bytes: int


Event = Started | Step | Tightened | Disturbed | Decoding | Finished


@dataclass(frozen=True)
class Result:
    """A video and what it took.

    frames: RGB images of width x height.
    seconds: of the whole call; step_seconds: of each denoising step; decode_seconds: of what follows them. On a
        CPU they include the time it takes to count tensors.
    peak_bytes: the most that was alive at once, weights included. On a CPU these are tensors, counted in
        the first two steps, the last, and what comes before and after; on a GPU what the allocator gave.
    weights_bytes: of all networks of the pipeline.
    plan: None for the pipeline as it is. Where memory ran out on the way, the tighter one that the run ended with, and
        rungs: how often it was tightened.
    disturbances: what outside the run has slowed it down or taken its memory, a sentence each.
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
    rungs: int = 0
    disturbances: tuple[str, ...] = ()

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
            "rungs": self.rungs,
            "disturbances": list(self.disturbances),
        }


@freeing_what_was_cancelled()
@telling_out_of_memory()
def run(
    pipe: DiffusionPipeline,
    job: Job,
    plan: Plan | None = None,
    image: Image.Image | None = None,
    on_event: Callable[[Event], None] | None = None,
    budget: str | int | None = None,
    should_stop: Callable[[], bool] | None = None,
    count_tensors: bool = True,
    call_options: Mapping[str, object] | None = None,
    prediction: Prediction | None = None,
) -> Result:
    """Make the video of a job.

    plan: how; None runs the pipeline untouched, as diffusers does.
    image: for models that start from one; cut to the job's shape around its middle.
    on_event: called with Started, a Step for each, Decoding and Finished, in this order, and with Tightened whenever
        memory ran out and something is done again, a step or the decoding by a tighter plan; an exception it raises
        ends the run, and the pipeline is left as it was. Disturbed comes when a step is far slower than it should be,
        or when others take the memory that the run counts on.
    budget: "8GiB", or bytes: a hard cap on what the run may hold on the device; by default the plan's own. On a
        CPU tensors are counted for it, which slows the run down.
    should_stop: asked before every slice, or without a plan at every step; once it says True the run ends in
        Cancelled, its memory is freed and the pipeline is ready for the next run.
    count_tensors: False leaves the memory of a CPU uncounted, and reported as 0, so that the seconds are the
        pipeline's own; later predictions learn nothing from such a run. On a GPU counting is free and always done.
    call_options: further arguments of the pipeline's call, such as SVD's decode_chunk_size.
    prediction: what `predict` says of this run, to know a slow step by.

    The noise comes from a generator on the CPU, so a seed means the same on every device.
    Raises InputError when the model cannot do the job, UnsupportedError when the plan cannot be run, OutOfMemory,
    Cancelled.
    """
    arguments = call_arguments(pipe, job, image) | dict(call_options or {})
    if plan is not None and plan.sampler is not None:
        arguments |= sampler_arguments(pipe, plan.sampler)
    if plan is None and is_applied(pipe):
        raise UnsupportedError("This pipeline is streamlined already; restore it before running it untouched.")
    emit = on_event or (lambda event: None)

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("The run was cancelled.")

    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    device = pipe._execution_device  # with offloading this is the GPU, where pipe.device may be the CPU
    clock = _Clock(device)
    steps: list[float] = []
    expected: list[Tensor] = []
    checkpoint = Checkpoint(pipe)
    rungs: list[Tightened] = []
    disturbances: list[str] = []

    def tightened(rung: Tightened) -> None:
        rungs.append(rung)
        watch.replanned(len(steps))
        emit(rung)

    def disturbed(found: list[Disturbed]) -> None:
        disturbances.extend(one.sentence for one in found)
        for one in found:
            emit(one)

    limit = parse_bytes(budget) if budget is not None else plan.budget_bytes if plan is not None else None

    with contextlib.ExitStack() as stack:
        stack.callback(give_back)
        stack.callback(pipe.maybe_free_model_hooks)  # an error leaves offloaded networks on the GPU
        applied = plan and stack.enter_context(apply(pipe, plan, check, on_rung=tightened, around_step=checkpoint.call))
        cap = None if limit is None else stack.enter_context(capped(detect(device), limit, networks))
        memory = _Allocator(networks, device) if device.type == "cuda" else _LiveTensors(networks, count_tensors, cap)
        stack.callback(memory.pause)
        stack.callback(pipe.unet.register_forward_pre_hook(lambda *_: check()).remove)
        decoder = getattr(pipe.vae, "decoder", pipe.vae)  # its call, for FreeInit denoises several times over
        decoding: list[Decoding] = []
        stack.callback(_at_first_call(decoder, lambda: (decoding.append(Decoding()), emit(decoding[0]))).remove)
        stack.callback(decoder.register_forward_pre_hook(lambda *_: check()).remove)

        if on_event is not None:
            stack.enter_context(_keeping_expected(pipe.scheduler, expected))

        def step_done(pipe: DiffusionPipeline, index: int, timestep: object, tensors: dict) -> dict:
            seconds, was_done = clock.lap(), checkpoint.is_behind
            tensors["latents"] = checkpoint.step_done(tensors["latents"])
            if was_done:
                return tensors
            steps.append(seconds)
            total = pipe.num_timesteps
            latents = expected.pop() if expected else tensors["latents"]
            held_bytes, peak_bytes = memory.read()
            emit(Step(index, total, steps[-1], held_bytes, peak_bytes, latents))
            disturbed(watch.step(steps, held_bytes))
            if index == 1:  # what one step leaves for the next is there now: those that follow are alike
                memory.pause()
            if index >= total - 2:
                memory.resume()
            return tensors

        emit(Started(job, plan, memory.weights_bytes))
        watch = Watch(detect(device), plan, prediction, limit, memory.weights_bytes)
        started = time.perf_counter()
        clock.lap()
        while True:
            stack.callback(_at_first_call(pipe.unet, clock.lap).remove)  # what came before is no step
            try:
                with _keeping_dtype(pipe.vae):
                    output = pipe(
                        **arguments,
                        generator=torch.Generator("cpu").manual_seed(job.seed),
                        callback_on_step_end=step_done,
                    )
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                where = whereabouts(error, pipe, checkpoint.steps, bool(decoding))
            # Out here the error is gone, and with it all that the call still held.
            if applied is None:
                raise OutOfMemory(f"Memory ran out {where}; {ADVICE}, or use a plan.")
            applied.release(where)
            checkpoint.again()
            memory.resume()
        decode_seconds = clock.lap()
        seconds = time.perf_counter() - started
        held_bytes, peak_bytes = memory.read()
        disturbed(watch.decoded(decode_seconds, held_bytes))
    if rungs:  # by several plans, of which none took what was measured
        plan = rungs[-1].plan
    elif plan is not None and peak_bytes and not disturbances:
        keep_observation(pipe, job, plan, tuple(steps), decode_seconds, peak_bytes, limit is not None)
    emit(Finished(seconds, peak_bytes))
    return Result(
        frames=tuple(output.frames[0]),
        job=job,
        plan=plan,
        device=str(device),
        seconds=seconds,
        step_seconds=tuple(steps),
        decode_seconds=decode_seconds,
        peak_bytes=peak_bytes,
        weights_bytes=memory.weights_bytes,
        rungs=len(rungs),
        disturbances=tuple(disturbances),
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


class _LiveTensors:
    """Memory on a CPU. Counting slows every operator call, so it is paused where nothing new is to see.

    counts: False for no counting at all; what is read is then 0. cap: counts throughout, so that nothing else has to.
    """

    def __init__(self, networks: list[nn.Module], counts: bool, cap: LiveTensors | None) -> None:
        self._counts = counts
        self._counter = cap or LiveTensors(networks)
        self._is_own = counts and cap is None
        self._active = contextlib.ExitStack()
        self.weights_bytes = self._counter.weights_bytes
        self.resume()

    def resume(self) -> None:
        self.pause()
        if self._is_own:
            self._active.enter_context(self._counter)

    def pause(self) -> None:
        self._active.close()

    def read(self) -> tuple[int, int]:
        """Bytes alive now, and the most so far."""
        if not self._counts:
            return 0, 0
        return self.weights_bytes + self._counter.live_bytes, self.weights_bytes + self._counter.peak_bytes


class _Allocator:
    """Memory on a GPU; counting costs nothing there."""

    def __init__(self, networks: list[nn.Module], device: torch.device) -> None:
        self._device = device
        self.weights_bytes = LiveTensors(networks).weights_bytes
        torch.cuda.reset_peak_memory_stats(device)

    def resume(self) -> None:
        pass

    def pause(self) -> None:
        pass

    def read(self) -> tuple[int, int]:
        """Bytes alive now, and the most so far."""
        return torch.cuda.memory_allocated(self._device), torch.cuda.max_memory_allocated(self._device)


@contextlib.contextmanager
def _keeping_expected(scheduler: SchedulerMixin, expected: list[Tensor]) -> Iterator[None]:
    """Put the clean latents that each step of a scheduler expects into a list of one, if it says what they are."""
    step, before = scheduler.step, vars(scheduler).get("step")

    @functools.wraps(step)
    def keeping(*args: object, **kwargs: object) -> object:
        output = step(*args, **kwargs)
        latents = getattr(output, "pred_original_sample", None)
        expected[:] = [] if latents is None else [latents]
        return output

    scheduler.step = keeping
    try:
        yield
    finally:
        expected.clear()
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before


@contextlib.contextmanager
def _keeping_dtype(network: nn.Module) -> Iterator[None]:
    """Undo after an error what SVD's pipeline does meanwhile: its autoencoder is in float32 to encode a picture."""
    dtype = network.dtype
    try:
        yield
    except BaseException:
        if any(weight.dtype != dtype for weight in network.parameters()):
            network.to(dtype)
        raise


def _at_first_call(network: nn.Module, action: Callable[[], object]) -> torch.utils.hooks.RemovableHandle:
    """Do something once, when a network is called for the first time."""

    def hook(*_: object) -> None:
        handle.remove()
        action()

    handle = network.register_forward_pre_hook(hook)
    return handle
