"""What the parts of the page share: the services behind it, and who is looking."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

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


def watch_other(studio: Studio, browser: dict, kind: str) -> View | None:
    """What another tab of this browser is having made, which is watched from here on; None where there is no such."""
    running = studio.service.running(browser["visitor"], kind)
    if running is None or running.id == browser[kind]:
        return None
    browser[kind] = running.id
    return running
