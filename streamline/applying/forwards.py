"""Put another forward in the place of a network's own, and the own one back."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

from diffusers.utils.torch_utils import is_compiled_module
from torch import nn

from ..errors import UnsupportedError
from ..families.networks import network_of
from ..families.running import check_parts, diffusers_hooks
from ..program.stages import Program


class ReplacedForward:
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
        """Return the own forward of a copied network: it has no plan, for nobody could take it off."""
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


def is_replaced(network: nn.Module) -> bool:
    """Return whether a plan is at work on a network."""
    return isinstance(vars(network).get(_slot(network)), ReplacedForward)


def check_network(network: nn.Module) -> Program:
    """Return a network's program, or refuse one that cannot be run so: by UnsupportedError, which names the obstacle.

    Its forward must be its class's own, but for a hook of accelerate around it.
    """
    kind = type(network).__name__
    if is_compiled_module(network) or getattr(network, "_compiled_call_impl", None) is not None:
        raise UnsupportedError("A network compiled as a whole is not supported; compile its transformer blocks.")
    family = network_of(network)
    if is_replaced(network):
        raise UnsupportedError("This pipeline is streamlined already; restore it before applying another plan.")
    forward = vars(network).get(_slot(network), type(network).forward)
    if getattr(forward, "__func__", forward) is not type(network).forward and not diffusers_hooks(network):
        raise UnsupportedError(f"The forward of this {kind} was replaced by another; take that off first.")
    check_parts(network)
    return family.lower(network)


def _slot(network: nn.Module) -> str:
    """Return where the innermost forward of an instance is kept: accelerate's hooks move what they wrap."""
    return "_old_forward" if "_old_forward" in vars(network) else "forward"
