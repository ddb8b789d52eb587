"""Closeness against time: plain fewer steps, and every way to reuse features, at equal cost.

Names begin with the group that a method belongs to, up to the comma; pictures draw a line through each group.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import DiffusionPipeline

from ...job import Job
from ...plan import Plan
from ...planning.calibrations import calibration_of
from ...planning.policies import Paper, RehashPolicy, Uniform
from ...planning.tuning import predict
from ...sampler import Sampler, takes_sigmas
from . import paper
from .cases import Case
from .measuring import Bench
from .methods import Method, Original, Streamlined

PLAIN_STEPS = (18, 13, 10, 8)
AYS_STEPS = 10
EVENLY = 2  # every second step in full: 13 of 25
BUDGETS = (0.6, 0.5)  # of the original's predicted seconds


def frontier(bench: Bench, cases: Sequence[Case]) -> list[Method]:
    """Everything at 25 steps or the cost of fewer."""
    pipe, job = bench.pipe, cases[0].job
    steps = job.num_inference_steps
    methods: list[Method] = [Original(), *(Original(f"plain, {count} steps", count) for count in PLAIN_STEPS)]
    if takes_sigmas(pipe):
        levels = pipe.scheduler.config
        sampler = Sampler.align_your_steps(AYS_STEPS, levels.sigma_max, levels.sigma_min)
        methods.append(Streamlined(f"AYS, {AYS_STEPS} steps", Plan(sampler=sampler)))
    uniform = _policy(f"uniform, {-(-steps // EVENLY)} full", Uniform(EVENLY), steps)
    return [*methods, uniform, deep_cache(job), *calibrated(pipe, job, BUDGETS)]


def table2(bench: Bench, cases: Sequence[Case]) -> list[Method]:
    """Return the paper's Table 2: Step Rehash against DeepCache at equal full steps, and what else that time buys."""
    pipe, job = bench.pipe, cases[0].job
    plain = Original(f"plain, {paper.FULL_STEPS} steps", paper.FULL_STEPS)
    return [Original(), deep_cache(job), *calibrated(pipe, job, ()), plain]


def deep_cache(job: Job) -> Streamlined:
    """DeepCache's cut, every second step in full: 13 of 25, as the paper compares it."""
    steps = job.num_inference_steps
    return _policy(f"DeepCache, {-(-steps // EVENLY)} full", Uniform(EVENLY, "deepcache"), steps)


def calibrated(pipe: DiffusionPipeline, job: Job, budgets: Sequence[float]) -> list[Method]:
    """Return what needs a calibration: the paper's policy, and ours at what rivals take and at shares of the original's
    time.

    None of it for a model, or a number of steps, that there is no calibration for.
    """
    known = calibration_of(pipe, job)
    if known is None:
        return []
    steps, full = job.num_inference_steps, paper.FULL_STEPS
    papers = _policy(f"the paper's, {full} full", Paper.of(known.similarity, full), steps)
    options = [(option, option.plan(Plan())) for option in known.options]
    priced = [(predict(pipe, job, plan).seconds, option.error, plan) for option, plan in options]

    def within(seconds: float) -> Plan | None:
        fitting = [(error, plan) for cost, error, plan in priced if cost <= seconds]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else None

    plans: list[tuple[str, Plan | None]] = [
        (f"streamlined, {full} full", known.best(full).plan(Plan())),
        ("streamlined, at DeepCache's time", within(predict(pipe, job, deep_cache(job).plan).seconds)),
        ("streamlined, at the paper's time", within(predict(pipe, job, papers.plan).seconds)),
    ]
    whole = predict(pipe, job, Plan()).seconds
    plans += [(f"streamlined, {fraction:.0%} of the time", within(fraction * whole)) for fraction in budgets]
    return [papers, *(Streamlined(name, plan) for name, plan in plans if plan is not None)]


def _policy(name: str, policy: RehashPolicy, steps: int) -> Streamlined:
    return Streamlined(name, Plan(rehash=policy.rehash(steps)))
