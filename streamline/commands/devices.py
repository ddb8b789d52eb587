"""streamline devices: what is here to run on, and how much of it is free."""

from __future__ import annotations

import argparse
import json

from ..hardware.cards import CARDS, emulate
from ..hardware.detection import default_budget, detect_all
from ..hardware.device import Device
from ..hardware.rates import Rates, rates_of
from ..sizes import format_bytes
from .report import table


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "devices", help="list the devices and what of their memory is free", allow_abbrev=False
    )
    parser.set_defaults(command=devices)
    parser.add_argument("--emulate", metavar="CARD", help="show a card that is not here, by name or size (8GiB)")
    parser.add_argument("--rates", action="store_true", help="measure what they do in a second (takes a few)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with where each figure comes from")


def devices(options: argparse.Namespace) -> str:
    """Return the devices here, or an emulated one, as a table or as JSON; the first is the one that is used."""
    if options.emulate is None:
        found = [(device, rates_of(device) if options.rates else None) for device in detect_all()]
    else:
        device, rates = emulate(options.emulate)
        found = [(device, rates if options.rates else None)]
    if options.json:
        rows = [_row(device, rates) for device, rates in found]
        return json.dumps({"devices": rows, "cards": [card.name for card in CARDS]}, indent=2)
    headings = ("DEVICE", "NAME", "TOTAL", "FREE", "OTHERS", "HERE", "CONTEXT", "BUDGET", "TYPES")
    lines = [table([headings, *(_cells(device) for device, _ in found)])]
    lines += [f"{_id(device)}: {_sentence(rates)}" for device, rates in found if rates is not None]
    lines.append(f"Cards that can be planned for without having one: {', '.join(card.name for card in CARDS)}.")
    return "\n\n".join(lines)


def _row(device: Device, rates: Rates | None) -> dict:
    row = device.to_dict() | {"id": _id(device), "own_bytes": device.own_bytes}
    row |= {"default_budget_bytes": default_budget(device)}
    return row if rates is None else row | {"rates": rates.to_dict()}


def _cells(device: Device) -> tuple[str, ...]:
    sizes = (
        device.total_bytes,
        device.free_bytes,
        device.used_by_others_bytes,
        device.own_bytes,
        device.context_bytes,
        default_budget(device),
    )
    return (_id(device), device.name, *map(format_bytes, sizes), ", ".join(device.dtypes))


def _id(device: Device) -> str:
    if device.emulated:
        return "emulated"
    return f"cuda:{device.index}" if device.kind == "cuda" else device.kind


def _sentence(rates: Rates) -> str:
    products = ", ".join(f"{rate / 1e12:,.2f} TFLOP/s in {name}" for name, rate in rates.flops)
    return (
        f"matrix products {products}; {rates.bandwidth / 1e9:,.1f} GB/s of memory moved; "
        f"{rates.launch_seconds * 1e6:.1f} microseconds an operator ({rates.source})."
    )
