"""Group offload: weights live in host memory, and are on the device only while what uses them runs.

A program knows its order, so the weights of the group that comes next are prefetched while one runs: at any time
those of two groups are on the device, and what a step skips is never sent. The networks that are called as a whole
(encoders of text, and of what a picture shows) come when they are called, and leave when another one comes.

diffusers' own group offloading waits for the blocks of a network to be called, which are opened here, and sends its
layers anew for every slice.

Where host memory is short, weights lie in mapped files instead (mapped.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UnsupportedError
from ..hardware.detection import detect
from ..program.stages import Program, Stage
from ..program.weights import other_weights, stage_weights, weights_of
from .mapped import bytes_in_memory, is_mapped, keep_on_disk
from .residency import bring, is_hooked

LEAST_FREE = 2**30  # bytes of the host's memory for values that are kept there, for frames, and for others


@dataclass(frozen=True)
class _Resident:
    """host: where the weights stay. copy: what stands for them on the device. is_there: once it is filled."""

    host: Tensor
    copy: Tensor
    is_there: torch.cuda.Event | None


class GroupOffload:
    """Says which weights are on a device; all others are in host memory.

    On a GPU the host's copies are pinned, and are sent on a stream of their own while another computes. On a CPU real
    copies are made, and freed, all the same: it saves nothing there, but can be tried out.

    can_pin: whether the host has memory to spare that the system could not take back.
    """

    def __init__(self, device: torch.device, can_pin: bool = True) -> None:
        self.device = device
        self._resident: dict[Tensor, _Resident] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._can_pin = can_pin

    def serves(self, args: tuple, kwargs: dict) -> bool:
        """Return whether a call is made on the device:
        on tensors elsewhere (for a preview) it is made where weights stay."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return any(tensor.device.type == self.device.type for tensor in tensors)

    @property
    def bytes_on_device(self) -> int:
        return sum(resident.copy.nbytes for resident in self._resident.values())

    def hold(self, now: Sequence[Tensor], prefetched: Sequence[Tensor] = ()) -> None:
        """Let these be on the device and no others. now: there when what is next runs. prefetched: come meanwhile."""
        wanted = {*now, *prefetched}
        for tensor in [tensor for tensor in self._resident if tensor not in wanted]:
            self._return(tensor)
        self._send(now)
        self._send(prefetched)
        for event in {self._resident[tensor].is_there for tensor in now} - {None}:
            torch.cuda.current_stream(self.device).wait_event(event)

    def hold_stages(self, now: Sequence[Stage], prefetched: Sequence[Stage]) -> None:
        """`hold` what groups of stages use."""
        self.hold(stage_weights(now), stage_weights(prefetched))

    @contextmanager
    def around(self, network: nn.Module, program: Program) -> Iterator[Program]:
        """Serve one call of a network: what is needed before the stages comes at once, and at the end nothing is left.

        Yields the program, which brings the rest as it runs.
        """
        self.hold(other_weights(network, program))
        try:
            yield replace(program, hold=self.hold_stages)
        finally:
            self.hold(())

    def _send(self, tensors: Sequence[Tensor]) -> None:
        """Memory is taken where computing takes its own, so that both share what is free."""
        sources = {tensor: self._host(tensor) for tensor in tensors if tensor not in self._resident}
        if not sources:
            return
        copies = {tensor: torch.empty_like(host, device=self.device) for tensor, host in sources.items()}
        event = None
        if self._stream is None:
            for tensor, host in sources.items():
                copies[tensor].copy_(host)
        else:
            # What was launched so far may still use the memory that the copies got.
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                for tensor, host in sources.items():
                    copies[tensor].copy_(host, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
        for tensor, host in sources.items():
            self._resident[tensor] = _Resident(host, copies[tensor], event)
            tensor.data = copies[tensor]

    def _host(self, tensor: Tensor) -> Tensor:
        host = tensor.detach()
        if self._stream is None or not self._can_pin or host.is_pinned() or is_mapped(host):
            return host  # what lies in a file would come into memory for good
        try:
            tensor.data = host.cpu().pin_memory()
        except RuntimeError:  # there is little of such memory (WSL2 allows half of all); other is sent more slowly
            self._can_pin = False
        return tensor.detach()

    def _return(self, tensor: Tensor) -> None:
        """Weights do not change, so nothing is sent back; but a pipeline may have made others in their place."""
        resident = self._resident.pop(tensor)
        if resident.is_there is not None:  # its memory may be taken again at once
            torch.cuda.current_stream(self.device).wait_event(resident.is_there)
        is_same = tensor.dtype == resident.copy.dtype  # also where it was cast meanwhile, and back again (casting.py)
        tensor.data = resident.host if is_same else tensor.detach().to(resident.host.device)


@contextmanager
def group_offload(
    pipe: DiffusionPipeline, networks: Sequence[nn.Module], host_bytes: int | None = None
) -> Iterator[GroupOffload]:
    """Keep a pipeline's weights in host memory, and bring them to its device as they are needed.

    Where the host has no room for them they lie in mapped files instead and are not pinned; then they are sent between
    groups, not while one runs. There they stay at the end, if they were on the host before: nothing else has changed
    about them, and the next video need not write them again (but for a VAE that its pipeline casts to and fro).

    networks: those that are run as programs, within `GroupOffload.around`. At the end, also after an error, all weights
        are where they were.
    host_bytes: free on the host; by default what is found now.
    Raises UnsupportedError where accelerate's hooks move weights, but for enable_model_cpu_offload.
    """
    device = pipe._execution_device
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    on_gpu = device.type == "cuda"
    is_short = _is_short(device, weights_of(parts), host_bytes)
    offload = GroupOffload(device, can_pin=not is_short)
    was_offloaded = bool(getattr(pipe, "_all_hooks", None))
    if was_offloaded:
        pipe.remove_all_hooks()
    if is_hooked(pipe):
        raise UnsupportedError("Weights that hooks of accelerate move cannot be offloaded; remove the hooks first.")
    homes = {part: tensors[0].device for part in parts if (tensors := weights_of([part]))}
    handles = []
    try:
        if is_short:  # from a GPU they come without a stop in other memory
            keep_on_disk(weights_of(parts))
        for part in parts:
            if on_gpu:
                part.to("cpu")
                add_hook_to_module(part, _Runs(device))
            handles += [_bring_when_called(offload, piece) for piece in _pieces(part) if piece not in networks]
        yield offload
    finally:
        for handle in handles:
            handle.remove()
        offload.hold(())
        if on_gpu:
            for part in parts:
                remove_hook_from_module(part)
            if all(home.type == "cuda" for home in homes.values()):
                bring(pipe, device)
            else:
                for part, home in homes.items():
                    part.to(home)
        if was_offloaded:
            pipe.enable_model_cpu_offload(device=device)


def _is_short(device: torch.device, weights: Sequence[Tensor], host_bytes: int | None) -> bool:
    """Whether the host has no room for the weights that are to come into its memory, and for what is made beside them.

    Those that are there already need no more of it; those that lie in a model's files do, for they would be pinned.
    """
    if device.type not in ("cuda", "cpu"):  # elsewhere device and host share one memory, and weights stay
        return False
    coming = sum(tensor.nbytes for tensor in weights if not is_mapped(tensor)) - bytes_in_memory(weights)
    return coming + LEAST_FREE > (detect("cpu").free_bytes if host_bytes is None else host_bytes)


class _Runs(ModelHook):
    """Tells the pipeline where a network runs whose weights are in host memory."""

    def __init__(self, device: torch.device) -> None:
        self.execution_device = device


def _pieces(part: nn.Module) -> list[nn.Module]:
    """What a pipeline calls by itself: an autoencoder's encoder and decoder are never needed together."""
    return list(part.children()) if hasattr(part, "decoder") else [part]


def _bring_when_called(offload: GroupOffload, piece: nn.Module) -> torch.utils.hooks.RemovableHandle:
    weights = weights_of([piece])

    def bring(piece: nn.Module, args: tuple, kwargs: dict) -> None:
        if offload.serves(args, kwargs):
            offload.hold(weights)

    return piece.register_forward_pre_hook(bring, with_kwargs=True)
