"""Write anew what first estimates start from: python -m ui.seeds

Due when a test says that they have gone astray, because the library plans otherwise than it did.
"""

from __future__ import annotations

import json

from streamline import MODELS, Model, Source

from .estimating import SEEDS
from .models import Pipelines
from .orders import Settings
from .planning import Planner

CARD = "24GiB"
KEPT = 8  # of a model's plans


def main() -> None:
    """Plan every model's own job on a card, and of the small ones on the processor too."""
    planner = Planner(Pipelines(offline=True))
    content = {
        model.name: [_seed(planner, model, card) for card in (("", CARD) if model.is_small else (CARD,))]
        for model in MODELS
        if model.is_small or model.configs is not None
    }
    SEEDS.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _seed(planner: Planner, model: Model, card: str) -> dict:
    source = Source(model.name)
    known = planner.known(Settings(model.name, source, planner.profile(source, model).job, card=card))
    *plans, smallest, original = known.plans
    kept = [*plans[:: max(1, len(plans) // (KEPT - 2))], smallest, original]
    return {
        "job": known.job.to_dict(),
        "kind": known.kind,
        "dtype": str(known.dtype).removeprefix("torch."),
        "rates": known.rates.to_dict(),
        "at_once": known.at_once,
        "plans": [[guidance, prediction.to_dict()] for guidance, prediction in kept],
    }


if __name__ == "__main__":
    main()
