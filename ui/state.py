"""What the parts of the page share: the services behind it, and who is looking."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import streamline

from .planning import Planner
from .service import Service, View

NOBODY = {"visitor": "", "generate": "", "compare": ""}


@dataclass(frozen=True)
class Studio:
    """The services behind the page.

    card: emulated from the beginning. is_offline: the hub is not asked. is_public: strangers may come.
    """

    service: Service
    planner: Planner
    card: str = ""
    is_offline: bool = False
    is_public: bool = False


def known(browser: dict | None) -> dict:
    """What a browser keeps, made whole: its visitor's secret name, and the orders it watches."""
    kept = {name: value for name, value in (browser or {}).items() if name in NOBODY and isinstance(value, str)}
    return NOBODY | kept | {"visitor": kept.get("visitor") or secrets.token_urlsafe(18)}


def watched(studio: Studio, browser: dict, kind: str) -> View | None:
    """The order of a kind that this browser watches."""
    if not browser or not browser.get("visitor"):
        return None
    return studio.service.view(browser["visitor"], browser.get(kind, ""))


def refuse_second(studio: Studio, browser: dict, kind: str, noun: str) -> None:
    """Raise InputError while the last order of a kind is being made: a second one would leave it to nobody."""
    last = watched(studio, browser, kind)
    if last is not None and not last.is_over:
        raise streamline.InputError(f"Your last {noun} is still being made; cancel it first.")
