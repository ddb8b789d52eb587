"""What a device does in a second: measured here once, in a few seconds, and kept."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..cache import cache_folder, read_json, write_json
from ..errors import DeviceError, telling_out_of_memory
from .device import DTYPES, Device
from .live_tensors import LiveTensors

MEASURED = "measured here"
PUBLISHED = "published"

SECONDS = 0.3  # for each figure
LARGEST_MATRIX = 8192  # rows; more than fills any GPU, and 0.75 GiB for the three in float32
# On a GPU, beyond its caches. On a CPU, a feature of the models that are run there: from 32 MiB on, glibc asks the
# kernel for fresh pages for every tensor, and the same operator moves five times fewer bytes a second.
ELEMENTWISE_BYTES = {"cpu": 2**24, "cuda": 2**28, "mps": 2**28}
LAYERS = 60
METHOD = 2  # counts up when rates are measured in another way, so that what is kept is measured again


@dataclass(frozen=True)
class Rates:
    """What a device does in a second, at best: large operators come close, small ones do not.

    flops: operations a second in matrix products by dtype name, as (name, rate) pairs; a mapping is taken too.
    bandwidth: bytes a second that elementwise operators move, read and written.
    launch_seconds: what calling one operator takes within the layers of a network, however small.
    source: "measured here" or "published".
    counting_seconds: what it takes longer where a cap counts tensors (cap.py), which a GPU's allocator does by itself.

    Raises DeviceError unless every figure is positive, the last at least 0, and there is a rate for float32.
    """

    flops: tuple[tuple[str, float], ...] | Mapping[str, float]
    bandwidth: float
    launch_seconds: float
    source: str
    counting_seconds: float = 0.0

    def __post_init__(self) -> None:
        try:
            flops = {str(name): float(rate) for name, rate in dict(self.flops).items()}
            figures = [*flops.values(), float(self.bandwidth), float(self.launch_seconds)]
            counting = float(self.counting_seconds)
        except (TypeError, ValueError) as error:
            raise DeviceError("The figures of Rates must be numbers.") from error
        is_sound = all(math.isfinite(figure) and figure > 0 for figure in figures) and 0 <= counting < math.inf
        if "float32" not in flops or not is_sound:
            raise DeviceError("The figures of Rates must be positive, and float32 among them.")
        object.__setattr__(self, "flops", tuple(sorted(flops.items())))

    def flops_of(self, dtype: torch.dtype) -> float:
        """Return a dtype's rate; of one that has none of its own, the lowest there is:
        such are computed in a roundabout way."""
        flops = dict(self.flops)
        return flops.get(str(dtype).removeprefix("torch."), min(flops.values()))

    def to_dict(self) -> dict:
        """Plain data, ready for JSON."""
        return {
            "flops": dict(self.flops),
            "bandwidth": self.bandwidth,
            "launch_seconds": self.launch_seconds,
            "source": self.source,
            "counting_seconds": self.counting_seconds,
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> Rates:
        """Return the inverse of `to_dict`; raises DeviceError for anything else."""
        try:
            return cls(**data)
        except TypeError as error:
            raise DeviceError(f"The rates are not understood: {error}.") from error


def rates_of(device: Device, cache: Path | None = None) -> Rates:
    """Return the rates of a device, measured the first time and read from disk after that.

    cache: folder to keep them in; by default the one of `cache_folder`. They are measured again for another
    version of torch or of the driver, and for another number of threads.

    Raises DeviceError for an emulated device, OutOfMemory where there is no room to measure.
    """
    key = {
        "device": device.name,
        "kind": device.kind,
        "driver": device.version,
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if device.kind == "cpu" else None,
        "method": METHOD,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = (cache or cache_folder()) / f"rates-{digest}.json"
    kept = read_json(path)
    if kept is not None and kept.get("of") == key:
        try:
            return Rates.from_dict(kept.get("rates"))
        except DeviceError:  # damaged; measured again below
            pass
    rates = measure_rates(device)
    write_json(path, {"of": key, "rates": rates.to_dict()})
    return rates


@telling_out_of_memory()
def measure_rates(device: Device) -> Rates:
    """Measure for a few seconds: large matrix products, one large elementwise operator, many tiny layers.

    The best of several turns counts, for what slows a turn down is other programs.
    Raises DeviceError for an emulated device, OutOfMemory where there is no room to measure.
    """
    if device.emulated:
        raise DeviceError(f"{device.name} is emulated, so its rates cannot be measured; emulate() knows them.")
    place = torch.device(device.kind, device.index)
    # People run half precision on CPUs that have no instructions for it; how slow that is should be known.
    names = DTYPES if device.kind == "cpu" else device.dtypes
    with torch.no_grad():
        flops = {name: _matrix_rate(place, getattr(torch, name)) for name in names}
        elements = torch.zeros(ELEMENTWISE_BYTES[device.kind] // 4, device=place)
        bandwidth = 2 * elements.nbytes / _best_seconds(place, lambda: elements + 1)
        layers = nn.Sequential(*(_SmallLayer() for _ in range(LAYERS))).to(place)
        few = torch.zeros(1, _SmallLayer.CHANNELS, 2, 2, device=place)
        operators = LAYERS * _SmallLayer.OPERATORS
        launch = _best_seconds(place, lambda: layers(few)) / operators
        counted = launch
        if device.kind != "cuda":
            with LiveTensors(limit_bytes=2**62):
                counted = _best_seconds(place, lambda: layers(few)) / operators
    return Rates(flops, bandwidth, launch, MEASURED, counting_seconds=max(0.0, counted - launch))


class _SmallLayer(nn.Module):
    """What networks are made of, with next to nothing to compute: most of what it takes is calling operators."""

    CHANNELS, OPERATORS = 16, 4

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, self.CHANNELS)
        self.convolve = nn.Conv2d(self.CHANNELS, self.CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolve(nn.functional.silu(self.norm(x)))


def _matrix_rate(place: torch.device, dtype: torch.dtype) -> float:
    """Operations a second, on the smallest power of two that takes long enough for its overhead not to count."""
    rows = 256
    while True:
        left, right = (torch.ones(rows, rows, device=place, dtype=dtype) for _ in range(2))
        seconds = _seconds(place, lambda a=left, b=right: a @ b)
        if seconds > SECONDS / 20 or rows == LARGEST_MATRIX:
            break
        rows *= 2
    return 2 * rows**3 / _best_seconds(place, lambda: left @ right)


def _best_seconds(place: torch.device, action: Callable[[], object]) -> float:
    _seconds(place, action)  # what is done once is done: kernels are chosen, memory is there
    best, end = math.inf, time.perf_counter() + SECONDS
    while time.perf_counter() < end or best == math.inf:
        best = min(best, _seconds(place, action))
    return best


def _seconds(place: torch.device, action: Callable[[], object]) -> float:
    _synchronize(place)
    start = time.perf_counter()
    action()
    _synchronize(place)
    return time.perf_counter() - start


def _synchronize(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    elif place.type == "mps":
        torch.mps.synchronize()
