"""Common cards by name or size, so that anyone can plan for one that they do not have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError
from ..sizes import format_bytes, parse_bytes
from .detection import CONTEXT_BYTES
from .device import Device
from .rates import PUBLISHED, Rates

GIB = 2**30
MIB = 2**20

# Published rates are peaks that no program sees: of clock times units, without a wait for memory. Large matrix
# products reach 65 to 90 % of them with tensor cores, which the power limit slows down; copies reach 80 to 90 %.
ATTAINABLE_FLOPS = 0.7
ATTAINABLE_BANDWIDTH = 0.85
# What PyTorch takes to call one operator without compilation, on a desktop's CPU; it is not the card's.
LAUNCH_SECONDS = 8e-6


@dataclass(frozen=True)
class Card:
    """A card's published figures.

    memory_bytes: as its driver reports it (less than its name says where error correction takes a part).
    bandwidth_bytes_per_second: of its memory.
    flops: peak operations a second by dtype, as (name, rate) pairs; half precision without sparsity, accumulated in
        float32 as PyTorch does, which GeForce cards do at half their tensor cores' speed.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_second: float
    flops: tuple[tuple[str, float], ...]

    @property
    def rates(self) -> Rates:
        """What large operators attain."""
        return Rates(
            flops={name: rate * ATTAINABLE_FLOPS for name, rate in self.flops},
            bandwidth=self.bandwidth_bytes_per_second * ATTAINABLE_BANDWIDTH,
            launch_seconds=LAUNCH_SECONDS,
            source=PUBLISHED,
        )


def _card(name: str, memory_bytes: int, gigabytes: float, single: float, half: float, *, has_bfloat: bool) -> Card:
    """gigabytes: a second, powers of 1000. single, half: 10^12 operations a second in float32 and in 16 bits."""
    flops = {"float32": single, "float16": half} | ({"bfloat16": half} if has_bfloat else {})
    return Card(name, memory_bytes, gigabytes * 1e9, tuple((dtype, rate * 1e12) for dtype, rate in flops.items()))


# Sources: NVIDIA's data sheets (GTX 1650, T4, A100, H100, L40S, RTX A6000) and the appendices of its Turing,
# GA102 and Ada white papers (GeForce). By size; where two have the same, the first stands for that size.
CARDS = (
    _card("GTX 1650", 4 * GIB, 128, 2.98, 5.97, has_bfloat=False),
    _card("RTX 2060", 6 * GIB, 336, 6.45, 25.8, has_bfloat=False),
    _card("RTX 4060", 8 * GIB, 272, 15.1, 30.2, has_bfloat=True),
    _card("RTX 3070", 8 * GIB, 448, 20.3, 40.6, has_bfloat=True),
    _card("RTX 3080", 10 * GIB, 760, 29.8, 59.5, has_bfloat=True),
    _card("RTX 3060", 12 * GIB, 360, 12.7, 25.5, has_bfloat=True),
    _card("RTX 4070", 12 * GIB, 504, 29.1, 58.3, has_bfloat=True),
    _card("T4", 15360 * MIB, 320, 8.1, 65, has_bfloat=False),
    _card("RTX 4080", 16 * GIB, 717, 48.7, 97.5, has_bfloat=True),
    _card("RTX 3090", 24 * GIB, 936, 35.6, 71, has_bfloat=True),
    _card("RTX 4090", 24 * GIB, 1008, 82.6, 165.2, has_bfloat=True),
    _card("RTX 5090", 32 * GIB, 1792, 104.8, 209.5, has_bfloat=True),
    _card("A100 40GB", 40 * GIB, 1555, 19.5, 312, has_bfloat=True),
    _card("L40S", 46068 * MIB, 864, 91.6, 362, has_bfloat=True),
    _card("RTX A6000", 48 * GIB, 768, 38.7, 154.8, has_bfloat=True),
    _card("A100 80GB", 80 * GIB, 2039, 19.5, 312, has_bfloat=True),
    _card("H100 80GB", 81559 * MIB, 3350, 66.9, 989, has_bfloat=True),
)


def emulate(text: str) -> tuple[Device, Rates]:
    """Return a card that is not here, from its name ("RTX 4090", "4090") or from its memory alone ("8GiB").

    A size stands for the first card of that size in CARDS, or for one of that size with the rates of the card that
    is nearest to it. Nothing else runs on an emulated card: all of its memory is free.

    Raises InputError, with the names there are, for anything else.
    """
    try:
        size = parse_bytes(text)
    except InputError:
        card = _named(text)
        return _emulated(card.name, card.memory_bytes, card)
    nearest = min(CARDS, key=lambda card: abs(card.memory_bytes - size))
    name = nearest.name if nearest.memory_bytes == size else f"{nearest.name} with {format_bytes(size)}"
    return _emulated(name, size, nearest)


def _named(text: str) -> Card:
    """The card of a name, of which the beginning or the end will do."""
    wanted = _letters(text)
    names = {_letters(card.name): card for card in CARDS}
    if wanted in names:
        return names[wanted]
    matches = [card.name for name, card in names.items() if name.startswith(wanted) or name.endswith(wanted)]
    if len(wanted) < 2 or not matches:
        known = ", ".join(card.name for card in CARDS)
        raise InputError(f"No card is called {text[:80]!r}; give a size like 8GiB, or one of {known}.")
    if len(matches) > 1:
        raise InputError(f"{text[:80]!r} may be {' or '.join(matches)}; write it in full.")
    return names[_letters(matches[0])]


def _emulated(name: str, size: int, card: Card) -> tuple[Device, Rates]:
    if size <= CONTEXT_BYTES:
        raise InputError(f"A card of {format_bytes(size)} holds no more than CUDA's own context.")
    published = f"published for the {card.name}"
    device = Device(
        kind="cuda",
        index=0,
        name=name,
        total_bytes=size,
        free_bytes=size,
        used_by_others_bytes=0,
        context_bytes=CONTEXT_BYTES,
        dtypes=tuple(dtype for dtype, _ in card.flops),
        sources={
            "total_bytes": published if size == card.memory_bytes else "as asked",
            "free_bytes": "assumed",
            "used_by_others_bytes": "assumed",
            "context_bytes": "assumed",
            "dtypes": published,
        },
        emulated=True,
    )
    return device, card.rates


def _letters(name: str) -> str:
    """Lower case, without makers' names, spaces and signs: what people write differently."""
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
