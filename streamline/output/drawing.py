"""Pictures of what is planned: memory over time of a step and a decode, and time against memory of every plan."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..cost.network_cost import NetworkCost
from ..cost.pipeline_cost import PipelineCost
from ..cost.predicting import ExecutionTarget
from ..files import atomic_write
from ..plan import Plan
from ..planning.forecasting import Forecast

GIB = 2**30
UNSLICED, SLICED = "tab:gray", "tab:blue"


def draw_frontier(known: Forecast, title: str, path: Path) -> None:
    """Draw three plots. Left and middle: the groups of one step and of one decode, unsliced and by the smallest plan.
    Right: all plans.

    Every group is as wide as it takes seconds and as high as it needs memory, so that the highest is the peak and
    all widths together are the time.
    """
    costs, target, points = known.costs, known.target, known.frontier()
    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    step, decode, frontier = figure.subplots(1, 3)
    plans = {"unsliced": (Plan(), UNSLICED), "smallest plan": (points[-1].plan, SLICED)}
    for label, (plan, color) in plans.items():
        _draw_groups(step, costs.denoise(plan.denoiser, plan.guidance), costs, target, "denoise", label, color)
        _draw_groups(decode, costs.decode(plan.decoder), costs, target, "decode", label, color)
    step.set(title="one denoising step", xlabel="seconds", ylabel="activations, GiB")
    decode.set(title="decoding", xlabel="seconds", ylabel="activations, GiB")
    step.legend(frameon=False)

    memory = [one.prediction.peak_bytes / GIB for one in points]
    seconds = [one.prediction.seconds for one in points]
    frontier.step(memory[::-1], seconds[::-1], where="post", color=SLICED)
    frontier.plot(memory, seconds, "o", color=SLICED, markersize=4)
    frontier.set(title="what a budget buys", xlabel="budget, GiB", ylabel="seconds of the whole run")
    for axes in (step, decode, frontier):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    with atomic_write(path) as partial:
        figure.savefig(partial)


def _draw_groups(
    axes: Axes, cost: NetworkCost, costs: PipelineCost, target: ExecutionTarget, stage: str, label: str, color: str
) -> None:
    edges, heights = [0.0], []
    times = costs.batch if stage == "denoise" and cost.held_bytes > costs.denoiser.held_bytes else 1
    for group in cost.groups * times:
        edges.append(edges[-1] + target.seconds(group.work, costs.subject.dtype, stage))
        heights.append((cost.held_bytes + group.peak_bytes) / GIB)
    axes.stairs(heights, edges, fill=True, alpha=0.35, color=color, label=label)
    axes.axhline(max(heights), color=color, linewidth=1, linestyle="--")
