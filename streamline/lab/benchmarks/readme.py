"""README's tables and plots, generated from the results in assets/benchmarks.

<!-- bench:table1 -->
... generated ...
<!-- /bench:table1 -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ...planning.planner import RESIDENCIES
from ...program.casting import FLOAT8_NAME
from . import results
from .calibrated import calibrated
from .pictures import draw_frontier
from .render import as_markdown, cells, heading

README = Path(__file__).parents[3] / "README.md"
MARKED = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)
PICTURE = "frontier.png"
GIB = 2**30
PLANS = ("original", "whole", "fine-batched", "fine-sequential")
BY_RESIDENCY = "all resident", "model offload", "goal", "model offload, in 8 bits", "group offload", "goal"
BESIDE_MODELLED = "peak, GiB", "seconds", "the paper's peak, GB", "the paper's seconds"


def fill(text: str, folder: Path = results.FOLDER) -> str:
    """README's text with what is between the markers generated anew. Raises KeyError for a marker of no table."""
    return MARKED.sub(lambda match: f"{match[1]}{BLOCKS[match[2]](found(folder, match[2]))}\n{match[4]}", text)


def write(readme: Path = README, folder: Path = results.FOLDER) -> list[Path]:
    """Generate README's tables and plots; returns the files that were written."""
    readme.write_text(fill(readme.read_text(encoding="utf-8"), folder), encoding="utf-8")
    written = [readme]
    if drawn := found(folder, "frontier"):
        draw_frontier(drawn, folder / PICTURE)
        written.append(folder / PICTURE)
    return written


def found(folder: Path, table: str) -> list[dict]:
    """Return the results of a table, by model."""
    return [
        results.load(path) for path in sorted(folder.glob(f"{table}*.json")) if results.load(path)["table"] == table
    ]


def _measured(found: Sequence[Mapping]) -> str:
    blocks = (f"{heading(result)}:\n\n{as_markdown(cells(result))}" for result in found)
    return "\n\n".join(blocks)


def _frontier(found: Sequence[Mapping]) -> str:
    return f"![Error against time](assets/benchmarks/{PICTURE})\n\n{_measured(found)}"


def _modelled(found: Sequence[Mapping]) -> str:
    return "\n\n".join(_modelled_table(result) for result in found)


def _modelled_table(result: Mapping) -> str:
    rows = [("model", "size", "method", *BESIDE_MODELLED)]
    for row in result["rows"]:
        job, paper = row["job"], row["paper"] or {}
        rows.append(
            (
                f"{row['model']}, {job['num_frames']} frames",
                f"{job['height']}x{job['width']}",
                row["name"],
                f"{row['peak_bytes'] / GIB:.1f}",
                f"{row['seconds']:.1f}",
                *(str(paper.get(name, "–")) for name in ("gigabytes", "seconds")),
            )
        )
    steps, card = result["num_inference_steps"], result["modelled_device"]["name"]
    return f"Modelled for an {card}, float16, {steps} steps, {result['date']}:\n\n{as_markdown(rows)}"


def _traced(found: Sequence[Mapping]) -> str:
    return "\n\n".join(as_markdown(list(_traced_rows(result))) for result in found)


def _traced_rows(result: Mapping) -> Iterator[tuple[str, ...]]:
    steps = ("step, original", "nothing sliced", "sliced, batched guidance", "sequential guidance")
    yield "model", *steps, "decode, original", "nothing sliced", "sliced"
    by_model: dict[tuple[str, int], dict] = {}
    for row in result["rows"]:
        by_model.setdefault((row["model"], row["num_frames"]), {})[row["plan"]] = row
    for (model, frames), plans in by_model.items():
        step = [plans[name]["denoiser"]["peak_bytes"] for name in PLANS]
        decode = [plans[name]["decoder"]["peak_bytes"] for name in PLANS[:3]]
        yield f"{model}, {frames} frames", *(f"{peak / GIB:.2f}" for peak in (*step, *decode))


def _memory(found: Sequence[Mapping]) -> str:
    return "\n\n".join(_memory_table(result) for result in found)


def _memory_table(result: Mapping) -> str:
    rows = [("model", "size", "original", *BY_RESIDENCY, "group offload, s", "original, s")]
    for row in result["rows"]:
        job = row["job"]
        peaks = {name: row[name]["peak_bytes"] for name in RESIDENCIES}
        in_8_bits = row[f"model offload, {FLOAT8_NAME}"]["peak_bytes"]
        goal = {name: "–" if size is None else f"{size / GIB:.1f}" for name, size in row["goals"].items()}
        rows.append(
            (
                f"{row['model']}, {job['num_frames']} frames",
                f"{job['height']}x{job['width']}",
                f"{row['original']['peak_bytes'] / GIB:.1f}",
                f"{peaks['resident'] / GIB:.2f}",
                f"{peaks['model offload'] / GIB:.2f}",
                goal["model offload"],
                f"{in_8_bits / GIB:.2f}",
                f"{peaks['group offload'] / GIB:.2f}",
                goal["group offload"],
                *(f"{row[name]['seconds']:.0f}" for name in ("group offload", "original")),
            )
        )
    card = result["modelled_device"]["name"]
    return f"Seconds modelled for an {card}, 25 steps, {result['date']}:\n\n{as_markdown(rows)}"


def _gpu(found: Sequence[Mapping]) -> str:
    return "\n\n".join(_gpu_table(result) for result in found) or "Not measured yet: no GPU was at hand."


def _gpu_table(result: Mapping) -> str:
    rows = [
        ("model", "size", "method", "peak, GiB", "predicted", "NVML", "s a step", "decode, s", "25 steps, s", "error")
    ]
    for row in result["rows"]:
        rows.append(
            (
                row["model"],
                f"{row['height']}x{row['width']}",
                row["name"],
                *(
                    "–" if row[name] is None else f"{row[name] / GIB:.2f}"
                    for name in ("tensor_bytes", "predicted_bytes", "card_bytes")
                ),
                *(f"{row[name]:.2f}" for name in ("step_seconds", "decode_seconds", "seconds")),
                "–" if row["error"] is None else f"{row['error']:.1e}",
            )
        )
    return f"{result['device']['name']}, {result['dtype']}, {result['date']}:\n\n{as_markdown(rows)}"


BLOCKS: dict[str, Callable[[Sequence[Mapping]], str]] = {
    "table1": _measured,
    "table2": _measured,
    "ablation": _measured,
    "speed": _measured,
    "frontier": _frontier,
    "modelled": _modelled,
    "traced": _traced,
    "memory": _memory,
    "gpu": _gpu,
    "calibrated": lambda _: calibrated(),  # from assets/rehash
}
