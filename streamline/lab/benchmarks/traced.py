"""Activations of the published models at full size, as they are and by the plans in assets/plans, without a GPU."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from ...cost.tracing import trace
from ...plan import Plan
from . import paper, results

PLANS = Path(__file__).parents[3] / "assets" / "plans"
TABLE = "traced"
SIZE = (576, 1024)


def trace_all(path: Path) -> dict:
    """Trace every published model and write the result, anew after every one; returns it."""
    plans = {file.stem: Plan.from_json(file.read_text(encoding="utf-8")) for file in sorted(PLANS.glob("*.json"))}
    height, width = SIZE
    result = {"table": TABLE, **results.about("cpu"), "height": height, "width": width, "rows": []}
    todo = [(model, name) for model in paper.FRAMES for name in ("original", *plans)]
    for model, name in tqdm(todo, desc="traced", unit="plan"):
        frames = paper.FRAMES[model]
        found = trace(model, height=height, width=width, num_frames=frames, plan=plans.get(name))
        parts = {part: {"peak_bytes": one.peak_bytes, "calls": one.calls} for part, one in found.items()}
        result["rows"].append({"model": model, "num_frames": frames, "plan": name, **parts})
        results.save(path, result)
    return result
