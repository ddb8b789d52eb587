"""The auto-tuner: from costs, a budget and a quality to a plan, with the reason for every choice.

Everything it chooses from is listed beforehand, whatever the budget: how each network may be sliced (frontiers.py),
guidance batched or sequential, weights resident or offloaded, by models or by groups of layers. The fastest that fits
is taken, so a larger budget, which only adds to what fits, is never slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from ..cost.network_cost import NetworkCost
from ..cost.pipeline_cost import PipelineCost
from ..cost.predicting import ExecutionTarget, predict, resident_bytes
from ..errors import InputError, quoted
from ..plan import BlockSlicing, Plan, Residency, Slicing
from ..prediction import BudgetError, Candidate
from ..sizes import format_bytes
from .frontiers import COUNTS, Choice, frontier, pareto
from .speeding import QUALITIES, Quality, Speed, speed_for

RESIDENCIES: tuple[Residency, ...] = get_args(Residency)
CLOSE_ENOUGH = 0.005  # a plan this much slower than the fastest is taken if it is smaller: models err by more


@dataclass(frozen=True)
class Request:
    """What is to be planned: a job's costs, where it runs, and how near the original it has to be.

    Raises InputError for an unknown quality.
    """

    costs: PipelineCost
    target: ExecutionTarget
    quality: Quality = "exact"

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            known = f"{', '.join(QUALITIES[:-1])} or {QUALITIES[-1]}"
            raise InputError(f"The quality is {known}, not {quoted(self.quality)}.")

    @property
    def capped(self) -> Request:
        """The same with a budget enforced."""
        return replace(self, target=self.target.capped)

    def candidate(self, plan: Plan) -> Candidate:
        """Return a plan with what it takes."""
        return Candidate(plan, predict(self.costs, plan, self.target))


def candidates(request: Request) -> tuple[Candidate, ...]:
    """Return every plan worth choosing, from the fastest to the smallest; each is smaller than the one before it.

    They are for a budget, so their seconds are those of capped runs.
    """
    target = request.target
    # Group offload needs a host memory of its own, which only CUDA devices have beside theirs.
    residencies = {"cpu": RESIDENCIES[:1], "cuda": RESIDENCIES}.get(target.device.kind, RESIDENCIES[:2])
    return _worth_choosing([one for each in residencies for one in _resident(request, each)])


def candidates_resident(request: Request, residency: Residency) -> tuple[Candidate, ...]:
    """Return the same, of one way to keep weights."""
    return _worth_choosing(list(_resident(request, residency)))


def readapted(known: Sequence[Candidate], request: Request) -> tuple[Candidate, ...]:
    """Return the same, of little more than the slicings that were worth choosing elsewhere, which takes no time.

    known: of the same model, for another job, target or quality. The finest slices of their kinds are tried as well,
    for a larger job may have more of them.
    """
    request = request.capped
    speed = speed_for(request.costs, request.target, request.quality)
    reasons = _speed_reasons(request.quality, speed)
    plans = dict.fromkeys(
        replace(plan, rehash=speed.rehash, sampler=speed.sampler, budget_bytes=None, reasons=reasons)
        for plan in (*(one.plan for one in known), *_finest(known))
    )
    return _worth_choosing([request.candidate(plan) for plan in plans])


def _finest(known: Sequence[Candidate]) -> set[Plan]:
    kinds = {(one.plan.residency, slicing.keep) for one in known for _, slicing in one.plan.denoiser}
    finest = {keep: (("*", Slicing(COUNTS[-1], COUNTS[-1], keep=keep)),) for _, keep in kinds}
    return {Plan(finest[keep], finest[keep], "sequential", residency) for residency, keep in kinds}


def _speed_reasons(quality: Quality, speed: Speed) -> tuple[str, str]:
    return f"quality: {quality}, as asked.", speed.reason


def _resident(request: Request, residency: Residency) -> Iterator[Candidate]:
    request = request.capped
    speed = speed_for(request.costs, request.target, request.quality)
    for denoiser, decoder, guidance in _pairs(request, residency):
        plan = Plan(
            denoiser.slicing,
            decoder.slicing,
            guidance,
            residency,
            speed.rehash,
            speed.sampler,
            reasons=_speed_reasons(request.quality, speed),
        )
        yield request.candidate(plan)


def _worth_choosing(found: list[Candidate]) -> tuple[Candidate, ...]:
    kept: list[Candidate] = []
    for one in sorted(found, key=lambda one: (one.prediction.seconds, one.prediction.peak_bytes, one.plan.to_json())):
        if not kept or one.prediction.peak_bytes < kept[-1].prediction.peak_bytes:
            kept.append(one)
    return tuple(kept)


def choose(known: tuple[Candidate, ...], request: Request, budget_bytes: int) -> Candidate:
    """Return the fastest of some candidates within a budget, with the reasons for all that it decides.

    known: as `candidates` lists them for this request.
    Raises BudgetError, naming the smallest budget that would do, when there is none.
    """
    fitting = [one for one in known if one.prediction.peak_bytes <= budget_bytes]
    if not fitting:
        smallest = known[-1].prediction
        worst = max(smallest.stages, key=lambda stage: stage.peak_bytes)
        raise BudgetError(
            f"{_job(request.costs)} needs at least {format_up(smallest.peak_bytes)} "
            f"({worst.name} is the tightest stage), more than the budget of {format_bytes(budget_bytes)}.",
            known[-1],
        )
    # Still never slower with a larger budget: the fastest only gets faster, and of two plans the smaller is slower.
    close = fitting[0].prediction.seconds * (1 + CLOSE_ENOUGH)
    best = [one for one in fitting if one.prediction.seconds <= close][-1]
    reasons = tuple(_reasons(best, known, request, budget_bytes))
    return Candidate(replace(best.plan, budget_bytes=budget_bytes, reasons=reasons), best.prediction)


def format_up(count: int) -> str:
    """Format bytes for people, rounded up, so that what is named is enough."""
    step = 2**30 // 10 if count >= 2**30 else 2**20 // 10
    return format_bytes(-(-count // step) * step)


def _pairs(request: Request, residency: Residency) -> Iterator[tuple[Choice, Choice, str]]:
    """For every limit on the peak the fastest way to denoise and to decode below it."""
    costs, target = request.costs, request.target
    of = _offloaded_frontier if residency == "group offload" else _frontier
    batched, sequential, decoder = (of(costs, target, name) for name in ("batched", "sequential", "decode"))
    denoisers = sorted(
        [(choice, "batched") for choice in batched]
        + ([(choice, "sequential") for choice in sequential] if costs.batch > 1 else []),
        key=lambda pair: (pair[0].seconds, pair[0].bytes),
    )
    resident = resident_bytes(costs, residency, target)
    step = resident[costs.denoising.name] + costs.held_bytes(costs.denoising)
    after = resident[costs.decoding.name] + costs.held_bytes(costs.decoding)
    limits = {choice.bytes + step for choice, _ in denoisers} | {choice.bytes + after for choice in decoder}
    seen = set()
    for limit in sorted(limits):
        fast = next((pair for pair in denoisers if pair[0].bytes + step <= limit), None)
        small = next((choice for choice in decoder if choice.bytes + after <= limit), None)
        if fast is not None and small is not None and (fast, small) not in seen:
            seen.add((fast, small))
            yield fast[0], small, fast[1]


def _frontier(costs: PipelineCost, target: ExecutionTarget, name: str) -> tuple[Choice, ...]:
    fraction = target.workspace_fraction(costs.subject.dtype)

    def cost_of(slicing: BlockSlicing) -> NetworkCost:
        return costs.decode(slicing) if name == "decode" else costs.denoise(slicing, name)

    measure = partial(_bytes_and_seconds, costs, target, name)
    keeps = ("whole", "rows") if target.is_cpu else ("whole", "rows", "host")
    key = f"{name} {keeps} {target.device.kind} {fraction} {target.rates} {target.correction.seconds_factors}"
    return tuple(
        map(
            Choice.from_list,
            costs.remember(key, lambda: [one.to_list() for one in frontier(cost_of, measure, fraction, keeps)]),
        )
    )


def _offloaded_frontier(costs: PipelineCost, target: ExecutionTarget, name: str) -> tuple[Choice, ...]:
    """The same slicings with weights that come and go: those of two groups hardly change which are worth choosing."""
    found = []
    for choice in _frontier(costs, target, name):
        if name == "decode":
            cost = costs.decode(choice.slicing, offloaded=True)
        else:
            cost = costs.denoise(choice.slicing, name, offloaded=True)
        size, seconds = _bytes_and_seconds(costs, target, name, cost)
        found.append(replace(choice, bytes=size, seconds=seconds))
    return pareto(found)


def _bytes_and_seconds(costs: PipelineCost, target: ExecutionTarget, name: str, cost: NetworkCost) -> tuple[int, float]:
    dtype = costs.subject.dtype
    activations, convolutions, weights = cost.worst(target.workspace_fraction(dtype))
    seconds = target.network_seconds(cost, dtype, "decode" if name == "decode" else "denoise")
    return activations + weights + target.workspace(activations, convolutions), seconds


def _job(costs: PipelineCost) -> str:
    job = costs.job
    return f"{costs.subject.name} with {job.num_frames} frames of {job.height}x{job.width}"


def _reasons(best: Candidate, known: tuple[Candidate, ...], request: Request, budget: int) -> Iterator[str]:
    plan, prediction = best.plan, best.prediction
    worst = max(prediction.stages, key=lambda stage: stage.peak_bytes)
    yield (
        f"budget: of {len(known)} plans, the smallest within {CLOSE_ENOUGH:.1%} of the fastest that keeps to "
        f"{format_bytes(budget)}; its peak is {format_bytes(prediction.peak_bytes)}, in {worst.name}."
    )
    if known[0] is not best:
        gain = prediction.seconds - known[0].prediction.seconds
        yield (
            f"budget: the fastest plan of all would save {gain:.1f} s and needs "
            f"{format_up(known[0].prediction.peak_bytes)}."
        )
    yield from _slicing_reasons("denoiser", plan.denoiser)
    yield from _slicing_reasons("decoder", plan.decoder)
    yield "group length: no limit, for a slice carried further keeps fewer whole values alive and costs nothing."
    yield (
        "slices in flight: 1, for several would each need their own memory, and the tables do not yet show what "
        "they would gain."
    )
    if request.costs.batch == 1:
        yield "guidance: off, so there is one sample."
    elif plan.guidance == "sequential":
        yield "guidance: halves one after the other, with the same result and about half the activations of a step."
    else:
        yield "guidance: both halves as one batch, which is no slower and fits."
    if request.target.is_cpu:
        yield "residency: all networks, for a CPU has no second memory to move them to."
    elif plan.residency == "resident":
        yield "residency: all networks stay on the device, which saves moving them and fits."
    elif plan.residency == "model offload":
        yield "residency: each network is on the device for its stage only: a lower peak for little time."
    else:
        yield (
            "residency: weights are in host memory and come to the device a few layers at a time, the next ones while "
            "some run: the lowest peak, and sending them takes as long as the link to the device does."
        )
    yield from plan.reasons


def _slicing_reasons(name: str, slicing: BlockSlicing) -> Iterator[str]:
    sliced = [(block, one) for block, one in slicing if max(one.frames, one.pixels) > 1]
    if not sliced:
        yield f"{name}: unsliced, for it fits as it is."
        return
    for block, one in sliced:
        yield (
            f"{name} {block}: {one.frames} slices of frames and {one.pixels} of pixels, the fewest operator calls "
            "that keep its groups within the peak."
        )
    keep = slicing[0][1].keep
    if keep != "whole":
        where = "row by row, freed as they are consumed" + (", in host memory" if keep == "host" else "")
        yield f"{name}: values are kept {where}: a lower peak, at the price of computing some of them twice."
    whole = [block for block, one in slicing if max(one.frames, one.pixels) == 1]
    if whole:
        yield f"{name} {', '.join(whole)}: unsliced, being smaller than the peak."
