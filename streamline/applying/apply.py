"""Put a plan to work on a diffusers pipeline, and take it off again without a trace."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from types import TracebackType

from diffusers import DiffusionPipeline
from diffusers.models.autoencoders.vae import Encoder
from diffusers.utils.torch_utils import is_compiled_module
from torch import nn

from ..errors import UnsupportedError
from ..families.networks import decoder_of, denoisers_of, network_of
from ..families.running import check_parts, diffusers_hooks, run_network
from ..plan import Plan
from ..program.executor import StepMemory, nothing
from ..registry import family_of
from ..weights.residency import can_move_weights, weights_by_stages
from ..weights.streaming import weights_streamed
from .fallback import Ladder, Tightened, ignore
from .reuse import Memory

Around = Callable[..., object]


def directly(run: Callable[..., object], *args: object, **kwargs: object) -> object:
    """What is done around a step where nobody asks for more."""
    return run(*args, **kwargs)


class Applied:
    """A plan at work on a pipeline. Leaving the `with` block, or calling restore, ends it."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        plan: Plan,
        before_slice: Callable[[], object] = nothing,
        memory: StepMemory | None = None,
        on_rung: Callable[[Tightened], object] = ignore,
        around_step: Around = directly,
    ) -> None:
        self.pipe = pipe
        self._ladder = ladder = Ladder(plan, on_rung)
        networks = denoiser, decoder = _networks(pipe)
        encoder = _encoder(pipe)
        # A scheduler makes a new list of timesteps for every run.
        if memory is None and plan.rehash is not None:
            memory = Memory(plan.rehash, lambda: pipe.scheduler.timesteps)
        with contextlib.ExitStack() as stack:
            weights = None
            if plan.residency == "streamed":
                opened = networks if encoder is None else (*networks, encoder)
                weights = stack.enter_context(weights_streamed(pipe, opened))

            def install(network: nn.Module, call: Callable[..., object], memory: StepMemory | None = None) -> None:
                run = functools.partial(run_network, network, memory=memory, before_slice=before_slice, weights=weights)
                stack.callback(_Forward(network, functools.partial(call, run)).remove)

            install(denoiser, functools.partial(around_step, functools.partial(ladder.call, "denoiser")), memory)
            install(decoder, functools.partial(ladder.call, "decoder"))
            if encoder is not None:
                install(encoder, lambda run, *args, **kwargs: run((), False, *args, **kwargs))
            if memory is not None:  # by the time of decoding its features only take room
                hook = decoder.register_forward_pre_hook(lambda *_: memory.forget())
                stack.callback(hook.remove)
                stack.callback(memory.forget)
            if plan.residency == "stages":
                stack.enter_context(weights_by_stages(pipe))
            self._undo = stack.pop_all()

    @property
    def plan(self) -> Plan:
        """What the next call runs by: the plan that was given, or a tighter one once memory ran out."""
        return self._ladder.plan

    def release(self, where: str) -> None:
        """Make room after memory ran out elsewhere than in a call of the two networks, to call the pipeline again.

        where: in words, like "while the text was encoded". What lies unused is given back; when that did not help at
        the same place, networks that are not at work leave a GPU. Raises OutOfMemory when nothing is left to give back.
        """
        self._ladder.release(where, self._move_weights)

    def _move_weights(self) -> bool:
        if not can_move_weights(self.pipe):
            return False
        self._undo.enter_context(weights_by_stages(self.pipe))
        return True

    def restore(self) -> None:
        """Give the pipeline its own forwards back; calling it again does nothing."""
        self._undo.close()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()


def apply(
    pipe: DiffusionPipeline,
    plan: Plan,
    before_slice: Callable[[], object] = nothing,
    memory: StepMemory | None = None,
    on_rung: Callable[[Tightened], object] = ignore,
    around_step: Around = directly,
) -> Applied:
    """Run a pipeline's UNet and decoder by a plan until restored; use it in a `with` statement.

    Its encoder of pictures takes less memory too, where it is as diffusers made it. Everything else about the pipeline
    stays as it is: schedulers, callbacks, LoRA, attention processors and `enable_model_cpu_offload` work as before,
    whether set before or after. torch hooks on the parts of a network are called once a slice, and see one slice at a
    time. When memory runs out in a call of either network, it is made again by a tighter plan, which stays; after the
    last one OutOfMemory is raised.

    before_slice: called before every slice; an exception it raises ends the pipeline's call there.
    memory: what runs the denoiser's steps, in place of what the plan's rehash asks for; for calibration.
    on_rung: told of every tighter plan.
    around_step: around_step(run, ...) is called in the place of each step of the denoiser, run(...).

    Raises UnsupportedError, and leaves the pipeline alone, when it cannot be run exactly. What makes it so only
    later raises the same error from the pipeline's next call.
    """
    family_of(pipe)
    for network in _networks(pipe):
        _check_replaceable(network)
        check_parts(network)
        network_of(network).lower(network)
    return Applied(pipe, plan, before_slice, memory, on_rung, around_step)


def is_applied(pipe: DiffusionPipeline) -> bool:
    """Whether a plan is at work on a pipeline."""
    return any(isinstance(vars(part).get(_slot(part)), _Forward) for part in _networks(pipe))


def _networks(pipe: DiffusionPipeline) -> tuple[nn.Module, nn.Module]:
    """What a plan is for: the denoiser and the decoder (or the autoencoder itself, to be refused by its name)."""
    return denoisers_of(pipe)[0], decoder_of(pipe)


def _encoder(pipe: DiffusionPipeline) -> nn.Module | None:
    """The autoencoder's encoder, where it can be run as a program, which takes less memory; else it stays as it is."""
    encoder = getattr(pipe.vae, "encoder", None)
    if type(encoder) is not Encoder:
        return None
    try:
        _check_replaceable(encoder)
        check_parts(encoder)
        network_of(encoder).lower(encoder)
    except UnsupportedError:
        return None
    return encoder


def _check_replaceable(network: nn.Module) -> None:
    """Refuse a network whose forward is not its class's own, but for a hook of accelerate around it."""
    kind = type(network).__name__
    if is_compiled_module(network) or getattr(network, "_compiled_call_impl", None) is not None:
        raise UnsupportedError("A network compiled as a whole is not supported; compile its transformer blocks.")
    network_of(network)
    forward = vars(network).get(_slot(network), type(network).forward)
    if isinstance(forward, _Forward):
        raise UnsupportedError("This pipeline is streamlined already; restore it before applying another plan.")
    if getattr(forward, "__func__", forward) is not type(network).forward and not diffusers_hooks(network):
        raise UnsupportedError(f"The forward of this {kind} was replaced by another; take that off first.")


def _slot(network: nn.Module) -> str:
    """Where the innermost forward of an instance is kept: accelerate's hooks move what they wrap."""
    return "_old_forward" if "_old_forward" in vars(network) else "forward"


class _Forward:
    """A network's forward while a plan is at work on it.

    Installed innermost, within a hook of accelerate if there is one: hooks move weights, this runs them.
    Whoever still holds it after it was removed gets the network's own forward.
    """

    def __init__(self, network: nn.Module, run: Callable[..., object]) -> None:
        """run: takes what the forward takes, in its place."""
        self._network = network
        self._before = vars(network).get(_slot(network))
        self._run = run
        functools.update_wrapper(self, type(network).forward.__get__(network))
        vars(network)[_slot(network)] = self

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._run(*args, **kwargs)

    def __deepcopy__(self, memo: dict) -> Callable:
        """A copy of the network has no plan: nobody could take it off."""
        network = copy.deepcopy(self._network, memo)
        return type(network).forward.__get__(network)

    def remove(self) -> None:
        """Put back what was there, also where a hook added or removed meanwhile has moved this."""
        own, attributes = self.__wrapped__, vars(self._network)
        self._run = own
        if attributes.get("_old_forward") is self:
            attributes["_old_forward"] = self._before or own
        elif attributes.get("forward") is self and self._before is not None:
            attributes["forward"] = self._before
        elif attributes.get("forward") is self:
            del attributes["forward"]
