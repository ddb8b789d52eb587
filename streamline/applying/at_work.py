"""Which network of a pipeline is at work, and so where a run is when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from diffusers import DiffusionPipeline
from torch import nn

from ..families.networks import autoencoder_of, working_on


@dataclass(frozen=True)
class Where:
    """A place in a run. Its `str` follows "memory ran out", like "while the text was encoded".

    component: the name of the pipeline's component at work; None between the calls of its networks.
    steps: how many are done. is_decoding: whether the decoder was called.
    """

    component: str | None
    steps: int
    is_decoding: bool
    words: str = field(compare=False)

    def __str__(self) -> str:
        return self.words


class AtWork:
    """Knows which network of a pipeline is at work, by hooks on its networks: `with AtWork(pipe) as at_work: ...`.

    A network counts from its call to its return; within the call of another it does not. A call that fails does not
    return, so what failed is known after the `with` block too.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._pipe = pipe
        self._module: nn.Module | None = None
        self._component: str | None = None
        self._handles: list = []

    def __enter__(self) -> AtWork:
        self._module = self._component = None
        autoencoder = autoencoder_of(self._pipe)
        for name, network in self._pipe.components.items():
            if not isinstance(network, nn.Module):
                continue
            # An autoencoder is called by its methods, which only its parts tell.
            for module in [network, *(network.children() if network is autoencoder else ())]:
                enter = module.register_forward_pre_hook(self._entering(name), prepend=True)
                self._handles += [enter, module.register_forward_hook(self._leave)]
        return self

    def __exit__(self, *error: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def where(self, steps: int, is_decoding: bool) -> Where:
        """Return where the run is: in the network at work, or else where its steps tell. As for `Where`."""
        component = self._component
        doing = working_on(self._pipe).get(component)
        if component is not None and self._pipe.components[component] is autoencoder_of(self._pipe):
            words = f"in the decoder, after {steps} steps" if steps else "while the picture was encoded"
        elif doing is not None:
            # "In" a network there are steps; "while" something is encoded is a time of its own.
            words = f"{doing}, after step {steps}" if steps and not doing.startswith("while ") else doing
        elif is_decoding:
            words = "while the frames were put together"
        else:
            words = f"after step {steps}" if steps else "before the first step"
        return Where(component, steps, is_decoding, words)

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, *_: object) -> None:
            if self._module is None:
                self._module, self._component = module, name

        return enter

    def _leave(self, module: nn.Module, *_: object) -> None:
        if self._module is module:
            self._module = self._component = None
