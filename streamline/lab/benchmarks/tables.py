"""Which methods each table compares, for the model and the job at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from ...job import Job
from ...plan import Plan, Slicing
from ...planning.tuning import frontier as exact_plans
from ...planning.tuning import tune
from .cases import Case
from .frontiers import deep_cache, frontier, table2
from .measuring import Bench, peak_of
from .methods import ByHand, Closed, InFloat8, Method, Naive, Original, Streamlined, tuned

PLENTY, HALF, QUARTER = 8.0, 0.5, 0.25  # of the original's activations
OPENED = {  # what exact shortcuts go into, by name
    "resnets": ("ResnetBlock2D",),
    "transformers": ("BasicTransformerBlock", "TemporalBasicTransformerBlock"),
    "cross attention": ("Attention",),
    "convolutions over frames": ("Conv3d",),
}


def table1(bench: Bench, cases: Sequence[Case]) -> list[Method]:
    """Return the paper's Table 1: the original, what people do without this package,
    and this package at given budgets."""
    pipe, job = bench.pipe, cases[0].job
    half, quarter = (budget(bench, cases[0], fraction) for fraction in (HALF, QUARTER))
    return [
        Original(),
        ByHand(),
        Naive(),
        Original("fewer steps (13)", 13),
        deep_cache(job),
        tuned("streamlined, exact, half the activations", pipe, job, half, "exact"),
        tuned("streamlined, exact, a quarter", pipe, job, quarter, "exact"),
        tuned("streamlined, balanced, half", pipe, job, half, "balanced"),
        tuned("streamlined, fast, half", pipe, job, half, "fast"),
        Streamlined("streamlined, exact, the least", smallest(pipe, job)),
    ]


def ablation(bench: Bench, cases: Sequence[Case]) -> list[Method]:
    """Each part alone and together, at four slices of each axis."""
    four, alone = Slicing(4, 4), Slicing(4, 4, 1)
    pipe, job = bench.pipe, cases[0].job
    balanced = tune(pipe, job, None, "balanced")
    plans = {
        "run as a program, nothing sliced": Plan(),
        "sequential guidance": Plan(guidance="sequential"),
        "decoder sliced": Plan(decoder=four),
        "denoiser sliced, layer by layer": Plan(alone),
        "denoiser sliced, grouped": Plan(four),
        "both sliced, layer by layer": Plan(alone, alone),
        "both sliced, grouped": Plan(four, four),
        "both sliced, grouped, sequential guidance": Plan(four, four, "sequential"),
        "rehash alone": Plan(rehash=balanced.rehash),
        "all together": Plan(four, four, "sequential", rehash=balanced.rehash),
    }
    return [
        Original(),
        *(Streamlined(name, plan) for name, plan in plans.items()),
        *(Closed(f"nothing sliced, {name} closed", Plan(), kinds) for name, kinds in OPENED.items()),
        Closed("nothing sliced, every layer closed", Plan(), sum(OPENED.values(), ())),
        InFloat8("nothing sliced, weights in 8 bits", Plan()),
    ]


def speed(bench: Bench, cases: Sequence[Case]) -> list[Method]:
    """Return what exactness costs in time at ever smaller budgets."""
    pipe, job = bench.pipe, cases[0].job
    fractions = {"nothing to save": PLENTY, "half the activations": HALF, "a quarter": QUARTER}
    return [
        Original(),
        *(
            tuned(f"exact, {name}", pipe, job, budget(bench, cases[0], fraction), "exact")
            for name, fraction in fractions.items()
        ),
        Streamlined("exact, the least", smallest(pipe, job)),
    ]


def budget(bench: Bench, case: Case, fraction: float) -> int:
    """Return bytes that leave a share of the original's activations beside the weights."""
    peak = peak_of(bench, bench.records(), Original(), case)
    return peak.weights_bytes + round(fraction * (peak.tensor_bytes - peak.weights_bytes))


def smallest(pipe: DiffusionPipeline, job: Job) -> Plan:
    """Return the exact plan of the lowest peak."""
    return exact_plans(pipe, job)[-1].plan


@dataclass(frozen=True)
class Table:
    """methods: what is compared. clips, seeds: how many videos each makes, and how many of them of one scene.

    with_memory: whether peaks belong to it.
    """

    methods: Callable[[Bench, Sequence[Case]], list[Method]]
    clips: int
    seeds: int = 1
    with_memory: bool = True


TABLES = {
    "table1": Table(table1, clips=8),
    "table2": Table(table2, clips=32, seeds=2, with_memory=False),
    "frontier": Table(frontier, clips=32, seeds=2, with_memory=False),
    "ablation": Table(ablation, clips=2),
    "speed": Table(speed, clips=4),
}
