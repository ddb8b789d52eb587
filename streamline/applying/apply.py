"""Put a plan to work on a diffusers pipeline, and take it off again without a trace."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from ..errors import UnsupportedError
from ..families.networks import autoencoder_of, decoder_of, denoisers_of
from ..families.running import run_network
from ..plan import Plan
from ..program.groups import check_blocks
from ..registry import family_of
from ..weights.offloading import group_offload
from ..weights.residency import can_move_weights, model_offload
from .at_work import Where
from .fallback import OutOfMemoryFallback
from .forwards import ReplacedForward, check_network, is_replaced
from .hooks import Hooks
from .reuse import FeatureCache, NetworkSteps

FORMER = {"memory": "feature_cache", "on_rung": "on_downgrade"}


class Applied:
    """A plan at work on a pipeline. Leaving the `with` block, or calling restore, ends it."""

    def __init__(self, pipe: DiffusionPipeline, plan: Plan, hooks: Hooks) -> None:
        self.pipe = pipe
        self._fallback = fallback = OutOfMemoryFallback(plan, hooks.on_downgrade)
        denoisers, decoder, encoder = denoisers_of(pipe), decoder_of(pipe), _encoder(pipe)
        caches = [hooks.feature_cache] * len(denoisers)
        if hooks.feature_cache is None and plan.rehash is not None:
            # A scheduler makes a new list of timesteps for every run.
            cache = FeatureCache(plan.rehash, lambda: pipe.scheduler.timesteps)
            caches = [NetworkSteps(cache, denoiser) for denoiser in denoisers]
        with contextlib.ExitStack() as stack:
            options = {} if hooks.before_slice is None else {"before_slice": hooks.before_slice}
            if plan.residency == "group offload":
                opened = [network for network in (*denoisers, decoder, encoder) if network is not None]
                options["weights"] = stack.enter_context(group_offload(pipe, opened))

            def install(network: nn.Module, call: Callable[..., object], **more: object) -> None:
                run = functools.partial(run_network, network, **options, **more)
                stack.callback(ReplacedForward(network, functools.partial(call, run)).remove)

            step = functools.partial(fallback.call, "denoiser")
            if hooks.around_step is not None:
                step = functools.partial(hooks.around_step, step)
            for denoiser, cache in zip(denoisers, caches, strict=True):
                install(denoiser, step, memory=cache)
            install(decoder, functools.partial(fallback.call, "decoder"))
            if encoder is not None:
                install(encoder, lambda run, *args, **kwargs: run((), False, *args, **kwargs))
            if caches[0] is not None:  # by the time of decoding its features only take room
                hook = decoder.register_forward_pre_hook(lambda *_: caches[0].forget())
                stack.callback(hook.remove)
                stack.callback(caches[0].forget)
            if plan.residency == "model offload":
                stack.enter_context(model_offload(pipe))
            self._undo = stack.pop_all()

    @property
    def plan(self) -> Plan:
        """Return what the next call runs by: the plan that was given, or a downgraded one once memory ran out."""
        return self._fallback.plan

    def release(self, where: Where) -> None:
        """Make room after memory ran out elsewhere than in a call of the networks, to call the pipeline again.

        What lies unused is given back; when that did not help at the same place, networks that are not at work leave a
        GPU. Raises OutOfMemory when nothing is left to give back.
        """
        self._fallback.release(where, self._move_weights)

    def _move_weights(self) -> bool:
        if not can_move_weights(self.pipe):
            return False
        self._undo.enter_context(model_offload(self.pipe))
        return True

    def restore(self) -> None:
        """Give the pipeline its own forwards back; calling it again does nothing."""
        self._undo.close()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()


def apply(pipe: DiffusionPipeline, plan: Plan, hooks: Hooks | None = None, **former: Any) -> Applied:
    """Run a pipeline's denoisers and decoder by a plan until restored; use it in a `with` statement.

    Its encoder of pictures takes less memory too, where it is as diffusers made it. Everything else about the pipeline
    stays as it is: schedulers, callbacks, LoRA, attention processors and `enable_model_cpu_offload` work as before,
    whether set before or after. torch hooks on the parts of a network are called once a slice, and see one slice at a
    time. When memory runs out in a call of these networks, it is made again by a downgraded plan, which stays; after
    the last level OutOfMemory is raised.

    hooks: what is called on the way. former: those of hooks by the names they had as arguments, for one version more.

    Raises UnsupportedError, and leaves the pipeline alone, when it cannot be run exactly. What makes it so only
    later raises the same error from the pipeline's next call. Raises PlanError for a plan that names a block which
    cannot be of these networks.
    """
    if former:
        hooks = Hooks(**{FORMER.get(name, name): hook for name, hook in former.items()})
    family_of(pipe)
    sliced = [*((denoiser, plan.denoiser) for denoiser in denoisers_of(pipe)), (decoder_of(pipe), plan.decoder)]
    for network, blocks in sliced:
        check_blocks(check_network(network), blocks)
    return Applied(pipe, plan, hooks or Hooks())


def is_applied(pipe: DiffusionPipeline) -> bool:
    """Return whether a plan is at work on a pipeline."""
    return any(map(is_replaced, (*denoisers_of(pipe), decoder_of(pipe))))


def _encoder(pipe: DiffusionPipeline) -> nn.Module | None:
    """Return the autoencoder's encoder, where it can be run as a program, which takes less memory; else it stays."""
    encoder = getattr(autoencoder_of(pipe), "encoder", None)
    if encoder is None:
        return None
    try:
        check_network(encoder)
    except UnsupportedError:
        return None
    return encoder
