"""Write anew what first estimates start from: python -m ui.seeds

Due when a test says that they have gone astray, because the library plans otherwise than it did.
"""

from __future__ import annotations

import json

from .estimating import SEEDS
from .models import Pipelines, Source, entries
from .orders import Settings
from .planning import Planner

CARD = "24GiB"
KEPT = 8  # of a model's plans


def main() -> None:
    """Plan every model's own job on a card, and of the small ones on the processor too."""
    planner, content = Planner(Pipelines(offline=True)), {}
    for name, entry in entries().items():
        if entry.source and name in {entry.planned_as, entry.source}:
            cards = [CARD] if entry.planned_as else ["", CARD]
            content[name] = [_seed(planner, name, card) for card in cards]
    SEEDS.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _seed(planner: Planner, name: str, card: str) -> dict:
    entry = entries()[name]
    source = Source(entry.source)
    settings = Settings(name, source, planner.profile(source, entry).job, card=card)
    known = planner.known(settings)
    *plans, smallest, original = known.plans
    kept = [*plans[:: max(1, len(plans) // (KEPT - 2))], smallest, original]
    return {
        "job": known.job.to_dict(),
        "kind": known.kind,
        "dtype": known.dtype,
        "rates": known.rates.to_dict(),
        "plans": [[guidance, prediction.to_dict()] for guidance, prediction in kept],
    }


if __name__ == "__main__":
    main()
