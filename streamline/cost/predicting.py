"""From costs to a Prediction: which networks are on the device when, and how long a device takes.

cost of each stage (pipeline_cost.py)  +  device, rates, experience  ->  Prediction
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..families.base import Phase
from ..hardware.device import Device
from ..hardware.rates import Rates
from ..plan import SPARSE, BlockSlicing, Plan, Rehash
from ..prediction import Prediction, StagePrediction
from ..program.groups import check_blocks
from .experience import NO_CORRECTION, Correction
from .measuring import Sample, Value, Work
from .network_cost import NetworkCost
from .pipeline_cost import PipelineCost, export_work

MIB = 2**20
LIBRARY_BYTES = 32 * MIB  # cuBLAS and cuDNN keep this on a GPU once they have run
# cuDNN's half-precision convolutions want channels last, and rearrange what they read and write in a workspace.
HALF_CONVOLUTION_WORKSPACE = 1.0
ALLOCATOR_FRACTION = 0.02  # of activations, lost to rounding and to gaps between blocks
HOST_BYTES_PER_SECOND = 12e9  # from and to host memory, PCIe 3.0 x16 or better
BANDS = {"modelled": (0.10, 0.40), "calibrated": (0.05, 0.20), "measured here": (0.03, 0.15)}
CPU_NOTE = "Weights and activations share one memory on a CPU, so every network counts as resident throughout."


@dataclass(frozen=True)
class ExecutionTarget:
    """Where a job runs: the device, what it does in a second, and what earlier runs on it have taught.

    is_capped: a budget is enforced, for which some devices have to count tensors (hardware/cap.py).
    """

    device: Device
    rates: Rates
    correction: Correction = NO_CORRECTION
    is_capped: bool = False

    @property
    def is_cpu(self) -> bool:
        return self.device.kind == "cpu"

    @property
    def capped(self) -> ExecutionTarget:
        """The same target with a budget enforced."""
        return replace(self, is_capped=True)

    def seconds(self, work: Work, dtype: torch.dtype, stage: str) -> float:
        """Return how long work takes: a GPU computes while the CPU launches what follows,
        a CPU does one after the other."""
        return self.correction.seconds(stage, *self.parts(work, dtype), overlap=not self.is_cpu)

    def parts(self, work: Work, dtype: torch.dtype) -> tuple[float, float]:
        """Return seconds of computing and seconds of launching, by the rates alone."""
        products = max(work.flops / self.rates.flops_of(dtype), work.product_bytes / self.rates.bandwidth)
        moved = work.moved_bytes / self.rates.bandwidth + work.sent_bytes / HOST_BYTES_PER_SECOND
        counting = self.rates.counting_seconds if self.is_capped else 0.0
        return products + moved, work.calls * (self.rates.launch_seconds + counting)

    def network_seconds(self, cost: NetworkCost, dtype: torch.dtype, stage: str) -> float:
        """Return the seconds of one call, offloaded weights included."""
        waiting = cost.waiting(HOST_BYTES_PER_SECOND, lambda work: self.seconds(work, dtype, stage))
        return self.seconds(cost.work, dtype, stage) + waiting

    def workspace_fraction(self, dtype: torch.dtype) -> float:
        return 0.0 if self.is_cpu or dtype.itemsize >= 4 else HALF_CONVOLUTION_WORKSPACE

    def workspace(self, activations: int, convolutions: int) -> int:
        """Return what libraries and the allocator take beside the tensors; on a CPU that is not counted."""
        return 0 if self.is_cpu else LIBRARY_BYTES + convolutions + round(ALLOCATOR_FRACTION * activations)


def resident_bytes(costs: PipelineCost, residency: str, target: ExecutionTarget) -> dict[str, int]:
    """Return bytes of weights on the device by stage.

    Model offload is diffusers' enable_model_cpu_offload: a network comes in when it is called, and the one before it
    in the pipeline's order leaves then.
    With group offload, weights that come and go within a network's call are not among them.
    """
    weights = costs.weights
    total = sum(weights.values())
    found = {}
    for phase in costs.phases:
        if residency == "group offload":
            in_host_memory = 0 if target.device.kind == "cuda" else total
            found[phase.name] = in_host_memory + called_whole(costs, phase)
            continue
        is_offloaded = residency == "model offload" and not target.is_cpu
        found[phase.name] = sum(weights[part] for part in phase.resident) if is_offloaded else total
        if phase.called is not None:  # wider meanwhile
            found[phase.name] += round(weights[phase.called.part] * (costs.widening(phase.called) - 1))
    return found


def called_whole(costs: PipelineCost, phase: Phase) -> int:
    """Return bytes of the network that comes and goes as a whole in a phase, with group offload."""
    return 0 if phase.called is None else costs.called_weights(phase.called)


def predict(costs: PipelineCost, plan: Plan | None, target: ExecutionTarget) -> Prediction:
    """Return what a run by a plan will take, or one of the untouched pipeline; a run with a budget is capped.

    Raises PlanError for a plan that names a block or a cache point which the networks do not have.
    """
    return _Predicting(costs, plan, target).prediction()


class _Predicting:
    """One prediction. plan: None for the untouched pipeline."""

    def __init__(self, costs: PipelineCost, plan: Plan | None, target: ExecutionTarget) -> None:
        if plan is not None and plan.budget_bytes is not None:
            target = target.capped
        if plan is not None and target.is_cpu:  # host memory is the device's own
            plan = replace(plan, denoiser=_without_host(plan.denoiser), decoder=_without_host(plan.decoder))
        if plan is not None:
            check_blocks(costs.denoiser.program, plan.denoiser)
            check_blocks(costs.decoder.program, plan.decoder)
        self.costs, self.plan, self.target = costs, plan, target
        self.dtype = costs.subject.dtype
        self.residency = "resident" if plan is None else plan.residency
        self.resident = resident_bytes(costs, self.residency, target)
        self.steps = costs.job.num_inference_steps if plan is None else plan.steps(costs.job.num_inference_steps)

    def prediction(self) -> Prediction:
        work = {"call": self._call, "denoise": self._denoise, "decode": self._decode, "export": self._export}
        stages: list[StagePrediction] = []
        before: tuple[str, ...] = ()
        for phase in self.costs.phases:
            found = list(work[phase.work](phase))
            if self.residency != "resident" and not self.target.is_cpu:
                found[0] = self._with_transfer(found[0], phase, before)
            stages, before = stages + found, phase.resident
        correction = self.target.correction
        tag = "measured here" if self.plan is not None and correction.exact(self.plan) else correction.tag
        memory_band, seconds_band = BANDS[tag]
        return Prediction(tuple(stages), tag, memory_band, seconds_band, CPU_NOTE if self.target.is_cpu else "")

    def _call(self, phase: Phase) -> Iterator[StagePrediction]:
        called = phase.called
        sample, dtype = self.costs.sample(called, opened=self.plan is not None), called.dtype or self.dtype
        seconds = phase.times * self.target.seconds(sample.work, dtype, "encode")
        yield self._stage(phase, 1, round(sample.peak_bytes), self._convolutions(sample, dtype), seconds)

    def _denoise(self, phase: Phase) -> Iterator[StagePrediction]:
        plan, costs = self.plan, self.costs
        if plan is None:
            yield self._whole(phase, self.steps * phase.times)
            yield from self._beside(phase)
            return
        offloaded = self.residency == "group offload"
        if plan.rehash is None:
            cost = costs.denoise(plan.denoiser, plan.guidance, offloaded=offloaded)
            yield self._network(phase, self.steps * phase.times, cost)
            yield from self._beside(phase)
            return
        cut = costs.denoiser.program.cache_point(plan.rehash.cut)
        full = plan.rehash.count_full(self.steps)
        feature, before = kept_bytes(costs.denoiser.values[cut], plan.rehash)
        cost = costs.denoise(plan.denoiser, plan.guidance, keep=cut, offloaded=offloaded)
        yield self._network(phase, full * phase.times, cost, feature + before, inside=feature)
        if full < self.steps:
            cost = costs.denoise(plan.denoiser, plan.guidance, given=cut, offloaded=offloaded)
            moved = feature if before else 0  # the extrapolated feature itself
            reusing = replace(phase, name=f"{phase.name}, rehash")
            yield self._network(reusing, (self.steps - full) * phase.times, cost, feature + before + moved)
        yield from self._beside(phase, feature + before)

    def _decode(self, phase: Phase) -> Iterator[StagePrediction]:
        if self.plan is None:
            yield self._whole(phase, phase.times)
            return
        cost = self.costs.decode(self.plan.decoder, offloaded=self.residency == "group offload")
        yield self._network(phase, phase.times, cost)

    def _export(self, phase: Phase) -> Iterator[StagePrediction]:
        seconds = self.target.seconds(export_work(self.costs.job), torch.float32, "decode")
        yield self._stage(phase, 1, 0, 0, seconds)

    def _beside(self, phase: Phase, kept: int = 0) -> Iterator[StagePrediction]:
        """What each step calls before the denoiser, while it holds what the step before has left. kept: as below."""
        if phase.beside is None:
            return
        called, costs = phase.beside, self.costs
        sample, count = costs.sample(called), self.steps * phase.times
        seconds = self.target.seconds(sample.work, self.dtype, "denoise")
        weights = costs.called_weights(called) if self.residency == "group offload" else 0
        seconds += weights / HOST_BYTES_PER_SECOND  # the denoiser's have taken their room
        held = round(sample.peak_bytes) - (phase.results - 1) * costs.left_bytes
        stage = self._stage(phase, count, held, self._convolutions(sample, self.dtype), seconds, kept, weights)
        yield replace(stage, name=f"{phase.name}, {called.part}")

    def _convolutions(self, sample: Sample, dtype: torch.dtype) -> int:
        return round(self.target.workspace_fraction(dtype) * sample.largest_convolution_bytes)

    def _network(self, phase: Phase, count: int, cost: NetworkCost, kept: int = 0, inside: int = 0) -> StagePrediction:
        """kept: bytes of features for other steps. inside: the part of them that the cost holds already."""
        activations, convolutions, weights = cost.worst(self.target.workspace_fraction(self.dtype))
        seconds = self.target.network_seconds(cost, self.dtype, phase.work)
        return self._stage(phase, count, activations - inside, convolutions, seconds, kept, weights)

    def _whole(self, phase: Phase, count: int) -> StagePrediction:
        """A network as diffusers runs it."""
        sample = self.costs.untouched(phase)
        seconds = self.target.seconds(sample.work, self.dtype, phase.work)
        return self._stage(phase, count, round(sample.peak_bytes), self._convolutions(sample, self.dtype), seconds)

    def _stage(
        self,
        phase: Phase,
        count: int,
        activations: int,
        convolutions: int,
        seconds: float,
        kept: int = 0,
        weights: int = 0,
    ) -> StagePrediction:
        """activations: of the network. seconds: of one time. weights: that come and go within the network's call."""
        own = replace(phase, name=phase.name.split(",")[0])
        activations += self.costs.held_bytes(own)
        return StagePrediction(
            name=phase.name,
            count=count,
            seconds=seconds * count,
            weights_bytes=self.resident[own.name] + weights,
            activation_bytes=round(activations * self.target.correction.memory),
            kept_bytes=kept,
            workspace_bytes=self.target.workspace(activations, convolutions),
            context_bytes=self.target.device.context_bytes,
        )

    def _with_transfer(self, stage: StagePrediction, phase: Phase, before: tuple[str, ...]) -> StagePrediction:
        """Bring weights in before a stage, once. With model offload, what goes out is copied too."""
        if self.residency == "group offload":
            sent = called_whole(self.costs, phase)
        else:
            sent = 2 * sum(self.costs.weights[part] for part in phase.resident if part not in before)
        return replace(stage, seconds=stage.seconds + sent / HOST_BYTES_PER_SECOND)


def kept_bytes(value: Value, rehash: Rehash) -> tuple[int, int]:
    """Return bytes that a feature takes between steps, and those of what extrapolation keeps beside it."""
    if not rehash.extrapolation:
        return value.nbytes, 0
    rows, channels, height, width = value.shape
    sparse = rows * channels * -(-height // SPARSE) * -(-width // SPARSE)
    return value.nbytes, value.nbytes + 2 * sparse * getattr(torch, value.dtype).itemsize


def _without_host(slicing: BlockSlicing) -> BlockSlicing:
    return tuple((block, replace(one, keep="rows") if one.keep == "host" else one) for block, one in slicing)
