"""Run a job on a pipeline, by a plan or as it is, and report what it took while it happens."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from ..applying.apply import Applied, apply, is_applied
from ..applying.at_work import AtWork
from ..applying.fallback import ADVICE, PlanDowngraded
from ..applying.hooks import Hooks
from ..applying.resuming import Checkpoint
from ..cost.observing import keep_observation
from ..errors import (
    Cancelled,
    OutOfMemory,
    UnsupportedError,
    forget_frames,
    is_out_of_memory,
    telling_out_of_memory,
)
from ..families.networks import autoencoder_of, call_arguments, decoder_of, denoisers_of
from ..hardware.cap import capped
from ..hardware.detection import detect
from ..hardware.process_memory import give_back
from ..job import Job
from ..plan import Plan
from ..prediction import Prediction
from ..sampler import sampler_arguments
from ..sizes import parse_bytes
from .events import Decoding, Event, Finished, Result, Started, Step
from .keeping import keeping_dtype, keeping_expected
from .meter import AllocatorMeter, Clock, TensorMeter
from .watching import Disturbed, Watch


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
    on_event: called with Started, a Step for each, Decoding and Finished, in this order, and with PlanDowngraded
        whenever memory ran out and something is done again, a step or the decoding by a downgraded plan; an exception
        it raises ends the run, and the pipeline is left as it was. Disturbed comes when a step is far slower
        than it should be, or when others take the memory that the run counts on.
    budget: "8GiB", or bytes: a hard cap on what the run may hold on the device; by default the plan's own. On a
        CPU tensors are counted for it, which slows the run down.
    should_stop: asked before every slice, or without a plan at every step; once it says True the run ends in
        Cancelled, its memory is freed and the pipeline is ready for the next run.
    count_tensors: False leaves the memory of a CPU uncounted, and reported as 0, so that the seconds are the
        pipeline's own; later predictions learn nothing from such a run. On a GPU counting is free and always done.
    call_options: further arguments of the pipeline's call, such as decode_chunk_size.
    prediction: what `predict` says of this run, to know a slow step by.

    The noise comes from a generator on the CPU, so a seed means the same on every device.
    Raises InputError when the model cannot do the job, UnsupportedError when the plan cannot be run, OutOfMemory,
    Cancelled.
    """
    handled = sys.exception()
    try:
        with telling_out_of_memory():
            arguments = call_arguments(pipe, job, image) | dict(call_options or {})
            if plan is not None and plan.sampler is not None:
                arguments |= sampler_arguments(pipe, plan.sampler)
            if plan is None and is_applied(pipe):
                raise UnsupportedError("This pipeline is streamlined already; restore it before running it untouched.")
            limit = parse_bytes(budget) if budget is not None else plan.budget_bytes if plan is not None else None
            return _Run(pipe, job, plan, on_event, should_stop, limit, prediction).make(arguments, count_tensors)
    except (Cancelled, OutOfMemory) as error:
        forget_frames(error, handled)
        raise


class _Run:
    """One run: how far it is, what it took so far, and what is done where the pipeline calls back.

    Nothing that refers to it is kept in it, so what it holds is freed when it ends.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        job: Job,
        plan: Plan | None,
        on_event: Callable[[Event], None] | None,
        should_stop: Callable[[], bool] | None,
        limit: int | None,
        prediction: Prediction | None,
    ) -> None:
        self._pipe, self._job, self._plan, self._limit, self._prediction = pipe, job, plan, limit, prediction
        self._on_event, self._should_stop = on_event, should_stop
        self._networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        self._device = pipe._execution_device  # with offloading this is the GPU, where pipe.device may be the CPU
        self._clock = Clock(self._device)
        self._checkpoint = Checkpoint(pipe)
        self._step_seconds: list[float] = []
        self._expected: list[Tensor] = []  # the clean latents that the step is expected to lead to
        self._downgrades: list[PlanDowngraded] = []
        self._warnings: list[str] = []
        self._is_denoising = self._is_decoding = False

    def make(self, arguments: dict, count_tensors: bool) -> Result:
        """Call the pipeline with arguments, and return the video and what it took."""
        with contextlib.ExitStack() as stack:
            applied = self._enter(stack, count_tensors)
            self._emit(Started(self._job, self._plan, self._meter.weights_bytes))
            held_bytes = self._meter.weights_bytes
            self._watch = Watch(detect(self._device), self._plan, self._prediction, self._limit, held_bytes)
            started = time.perf_counter()
            self._clock.lap()
            frames = self._call(applied, arguments)
            decode_seconds = self._clock.lap()
            seconds = time.perf_counter() - started
            held_bytes, peak_bytes = self._meter.read()
            self._warn(self._watch.decoded(decode_seconds, held_bytes))
        plan, steps = self._plan, tuple(self._step_seconds)
        if self._downgrades:  # by several plans, of which none took what was measured
            plan = self._downgrades[-1].plan
        elif plan is not None and peak_bytes and not self._warnings:
            keep_observation(self._pipe, self._job, plan, steps, decode_seconds, peak_bytes, self._limit is not None)
        self._emit(Finished(seconds, peak_bytes))
        return Result(
            frames=frames,
            job=self._job,
            plan=plan,
            device=str(self._device),
            seconds=seconds,
            step_seconds=steps,
            decode_seconds=decode_seconds,
            peak_bytes=peak_bytes,
            weights_bytes=self._meter.weights_bytes,
            rungs=len(self._downgrades),
            disturbances=tuple(self._warnings),
        )

    def _enter(self, stack: contextlib.ExitStack, count_tensors: bool) -> Applied | None:
        """Put the plan, the cap and the hooks of a run on its pipeline, until the stack is closed."""
        pipe = self._pipe
        stack.callback(give_back)
        stack.callback(pipe.maybe_free_model_hooks)  # an error leaves offloaded networks on the GPU
        applied = None
        if self._plan is not None:
            hooks = Hooks(self._check, on_downgrade=self._downgraded, around_step=self._checkpoint.call)
            applied = stack.enter_context(apply(pipe, self._plan, hooks))
        cap = None
        if self._limit is not None:
            cap = stack.enter_context(capped(detect(self._device), self._limit, self._networks))
        if self._device.type == "cuda":
            self._meter = AllocatorMeter(self._networks, self._device)
        else:
            self._meter = TensorMeter(self._networks, count_tensors, cap)
        stack.callback(self._meter.pause)
        for denoiser in denoisers_of(pipe):
            stack.callback(denoiser.register_forward_pre_hook(self._before_denoiser).remove)
        # The decoder's call, not the last step, tells that the frames are made: FreeInit denoises several times over.
        stack.callback(decoder_of(pipe).register_forward_pre_hook(self._before_decoder).remove)
        if self._on_event is not None:
            stack.enter_context(keeping_expected(pipe.scheduler, self._expected))
        return applied

    def _call(self, applied: Applied | None, arguments: dict) -> tuple[Image.Image, ...]:
        """Return the pipeline's frames; where memory runs out, call it again from where it was."""
        at_work = AtWork(self._pipe)
        while True:
            self._is_denoising = False
            try:
                with keeping_dtype(autoencoder_of(self._pipe)), at_work:
                    output = self._pipe(
                        **arguments,
                        generator=torch.Generator("cpu").manual_seed(self._job.seed),
                        callback_on_step_end=self._step_done,
                    )
                return tuple(output.frames[0])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with it all that the call still held.
            where = at_work.where(self._checkpoint.steps, self._is_decoding)
            if applied is None:
                raise OutOfMemory(f"Memory ran out {where}; {ADVICE}, or use a plan.")
            applied.release(where)
            self._checkpoint.again()
            self._meter.resume()

    def _step_done(self, pipe: DiffusionPipeline, index: int, timestep: object, tensors: dict) -> dict:
        """Count a step, unless it was done before, and tell of it."""
        seconds, was_done = self._clock.lap(), self._checkpoint.is_behind
        tensors["latents"] = self._checkpoint.step_done(tensors["latents"])
        if was_done:
            return tensors
        self._step_seconds.append(seconds)
        total = pipe.num_timesteps
        latents = self._expected.pop() if self._expected else tensors["latents"]
        held_bytes, peak_bytes = self._meter.read()
        self._emit(Step(index, total, seconds, held_bytes, peak_bytes, latents))
        self._warn(self._watch.step(self._step_seconds, held_bytes))
        if index == 1:  # what one step leaves for the next is there now: those that follow are alike
            self._meter.pause()
        if index >= total - 2:
            self._meter.resume()
        return tensors

    def _before_denoiser(self, *_: object) -> None:
        self._check()
        if not self._is_denoising:  # what came before is no step
            self._is_denoising = True
            self._clock.lap()

    def _before_decoder(self, *_: object) -> None:
        if not self._is_decoding:
            self._is_decoding = True
            self._emit(Decoding())
        self._check()

    def _check(self) -> None:
        """Raise Cancelled once the run is to stop."""
        if self._should_stop is not None and self._should_stop():
            raise Cancelled("The run was cancelled.")

    def _downgraded(self, downgraded: PlanDowngraded) -> None:
        self._downgrades.append(downgraded)
        self._watch.replanned(len(self._step_seconds))
        self._emit(downgraded)

    def _warn(self, warnings: list[Disturbed]) -> None:
        self._warnings.extend(warning.sentence for warning in warnings)
        for warning in warnings:
            self._emit(warning)

    def _emit(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)
