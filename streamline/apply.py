"""Put a plan to work on a diffusers pipeline, and take it off again without a trace."""

from __future__ import annotations

import functools
from types import TracebackType

from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    DiffusionPipeline,
    StableVideoDiffusionPipeline,
)
from torch import Tensor, nn

from .conditions import Conditions
from .errors import UnsupportedError
from .executor import Executor
from .networks import family_of
from .plan import BlockSlicing, Plan

PIPELINES = (
    StableVideoDiffusionPipeline,
    AnimateDiffPipeline,
    AnimateDiffControlNetPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
)


class Applied:
    """A plan at work on a pipeline. Leaving the `with` block, or calling restore, ends it."""

    def __init__(self, pipe: DiffusionPipeline, plan: Plan) -> None:
        self.pipe = pipe
        self.plan = plan
        self._undo = [
            _install(pipe.unet, plan.denoiser, apart=plan.guidance == "apart"),
            _install(pipe.vae.decoder, plan.decoder, apart=plan.guidance == "apart"),
        ]

    def restore(self) -> None:
        """Give the pipeline its own forwards back; calling it again does nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()


def apply(pipe: DiffusionPipeline, plan: Plan) -> Applied:
    """Run a pipeline's UNet and decoder by a plan until restored; use it in a `with` statement.

    Everything else about the pipeline stays as it is: schedulers, callbacks, LoRA, attention processors and
    `enable_model_cpu_offload` work as before.

    Raises UnsupportedError, and leaves the pipeline alone, when it cannot be run exactly.
    """
    if not isinstance(pipe, PIPELINES):
        known = ", ".join(kind.__name__ for kind in PIPELINES)
        raise UnsupportedError(f"{type(pipe).__name__} cannot be streamlined; these can: {known}.")
    for network in (pipe.unet, pipe.vae.decoder):
        check(network)
    return Applied(pipe, plan)


def check(network: nn.Module) -> None:
    """Raise UnsupportedError, naming the obstacle, if a network cannot be run as a program as it stands."""
    family_of(network).lower(network)
    if any(isinstance(network.__dict__.get(name), _Forward) for name in ("forward", "_old_forward")):
        raise UnsupportedError("This pipeline is streamlined already; restore it before applying another plan.")
    if network._compiled_call_impl is not None:
        raise UnsupportedError(f"{type(network).__name__} is compiled as a whole; compile its blocks instead.")
    for name, module in network.named_modules():
        hooks = getattr(module, "_diffusers_hook", None)
        if hooks is not None and hooks.hooks:
            hook = next(iter(hooks.hooks))
            raise UnsupportedError(f"The diffusers hook {hook!r} on {name or type(network).__name__} is not supported.")
        if name and hasattr(module, "_hf_hook"):
            raise UnsupportedError("Sequential CPU offload is not supported; enable_model_cpu_offload is.")


class _Forward(functools.partial):
    """Marks a forward as ours, so that it is found again under whatever a hook has wrapped around it."""


def run_network(network: nn.Module, slicing: BlockSlicing, apart: bool, *args: object, **kwargs: object) -> object:
    """What the network's own forward does, by a plan. Lowered at every call, so it follows every change made since."""
    family = family_of(network)

    def execute(values: dict[str, Tensor], conditions: Conditions) -> Tensor:
        return Executor.prepare(family.lower(network), slicing, apart=apart)(values, conditions)

    return family.forward(network, execute, *args, **kwargs)


def _install(network: nn.Module, slicing: BlockSlicing, *, apart: bool):
    """Replace the innermost forward of one network instance; returns the function that undoes it."""
    # accelerate's hooks keep the forward they wrap in _old_forward: inside them is where ours belongs.
    slot = "_old_forward" if "_old_forward" in network.__dict__ else "forward"
    before = network.__dict__.get(slot)
    ours = _Forward(run_network, network, slicing, apart)
    functools.update_wrapper(ours, getattr(network, slot))
    network.__dict__[slot] = ours

    def undo() -> None:
        # A hook added or removed meanwhile has moved our forward from one slot to the other.
        for name in ("forward", "_old_forward"):
            if network.__dict__.get(name) is ours:
                if before is None and name == "forward":
                    del network.__dict__[name]
                else:
                    network.__dict__[name] = before if before is not None else type(network).forward.__get__(network)

    return undo
