"""The seconds and the bytes that a run takes."""

from __future__ import annotations

import contextlib
import time

import torch
from torch import nn

from ..hardware.live_tensors import LiveTensors


class Clock:
    """Seconds between laps, once the device has caught up."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap, or since the start."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, time.perf_counter()
        return self._last - before


class TensorMeter:
    """Counts tensors, for a CPU. That slows every operator call, so it is paused where nothing new is to see.

    weights_bytes: of all networks.
    """

    def __init__(self, networks: list[nn.Module], counts: bool, cap: LiveTensors | None) -> None:
        """counts: False for nothing at all; what is read is then 0. cap: counts throughout, for this too."""
        self._counts = counts
        self._counter = cap or LiveTensors(networks)
        self._is_own = counts and cap is None
        self._active = contextlib.ExitStack()
        self.weights_bytes = self._counter.weights_bytes
        self.resume()

    def resume(self) -> None:
        """Count from here on."""
        self.pause()
        if self._is_own:
            self._active.enter_context(self._counter)

    def pause(self) -> None:
        """Count no more."""
        self._active.close()

    def read(self) -> tuple[int, int]:
        """Return the bytes alive now, and the most so far; weights included."""
        if not self._counts:
            return 0, 0
        return self.weights_bytes + self._counter.live_bytes, self.weights_bytes + self._counter.peak_bytes


class AllocatorMeter:
    """Asks torch's allocator, on a GPU; that costs nothing, so it never pauses. weights_bytes: of all networks."""

    def __init__(self, networks: list[nn.Module], device: torch.device) -> None:
        self._device = device
        self.weights_bytes = LiveTensors(networks).weights_bytes
        torch.cuda.reset_peak_memory_stats(device)

    def resume(self) -> None:
        """Go on."""

    def pause(self) -> None:
        """Go on all the same."""

    def read(self) -> tuple[int, int]:
        """Return the bytes alive now, and the most so far; weights included."""
        return torch.cuda.memory_allocated(self._device), torch.cuda.max_memory_allocated(self._device)
