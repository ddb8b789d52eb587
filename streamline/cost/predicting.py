"""From costs to a Prediction: which networks are on the device when, and how long a device takes.

cost of each stage (pipeline_cost.py)  +  device, rates, experience  ->  Prediction
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..families.layers.cache_points import find_cut
from ..hardware.device import Device
from ..hardware.rates import Rates
from ..plan import SPARSE, BlockSlicing, Plan, Rehash
from ..prediction import Prediction, StagePrediction
from .experience import NO_CORRECTION, Correction
from .measuring import Sample, Value, Work
from .network_cost import NetworkCost
from .pipeline_cost import PipelineCost, export_work

MIB = 2**20
LIBRARY_BYTES = 32 * MIB  # cuBLAS and cuDNN keep this on a GPU once they have run
# cuDNN's half-precision convolutions want channels last, and rearrange what they read and write in a workspace.
HALF_CONVOLUTION_WORKSPACE = 1.0
ALLOCATOR_SHARE = 0.02  # of activations, lost to rounding and to gaps between blocks
HOST_BYTES_PER_SECOND = 12e9  # from and to host memory, PCIe 3.0 x16 or better
BANDS = {"modelled": (0.10, 0.40), "calibrated": (0.05, 0.20), "measured here": (0.03, 0.15)}
CPU_NOTE = "Weights and activations share one memory on a CPU, so every network counts as resident throughout."


@dataclass(frozen=True)
class Place:
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
    def capped(self) -> Place:
        """The same place with a budget enforced."""
        return replace(self, is_capped=True)

    def seconds(self, work: Work, dtype: torch.dtype, stage: str) -> float:
        """A GPU computes while the CPU launches what follows; a CPU does one after the other."""
        return self.correction.seconds(stage, *self.parts(work, dtype), overlap=not self.is_cpu)

    def parts(self, work: Work, dtype: torch.dtype) -> tuple[float, float]:
        """Seconds of computing and seconds of launching, by the rates alone."""
        products = max(work.flops / self.rates.flops_of(dtype), work.product_bytes / self.rates.bandwidth)
        moved = work.moved_bytes / self.rates.bandwidth + work.sent_bytes / HOST_BYTES_PER_SECOND
        counting = self.rates.counting_seconds if self.is_capped else 0.0
        return products + moved, work.calls * (self.rates.launch_seconds + counting)

    def network_seconds(self, cost: NetworkCost, dtype: torch.dtype, stage: str) -> float:
        """Of one call, streamed weights included."""
        waiting = cost.waiting(HOST_BYTES_PER_SECOND, lambda work: self.seconds(work, dtype, stage))
        return self.seconds(cost.work, dtype, stage) + waiting

    def workspace_share(self, dtype: torch.dtype) -> float:
        return 0.0 if self.is_cpu or dtype.itemsize >= 4 else HALF_CONVOLUTION_WORKSPACE

    def workspace(self, activations: int, convolutions: int) -> int:
        """What libraries and the allocator take beside the tensors; on a CPU that is not counted."""
        return 0 if self.is_cpu else LIBRARY_BYTES + convolutions + round(ALLOCATOR_SHARE * activations)


def resident_bytes(costs: PipelineCost, residency: str, place: Place) -> dict[str, int]:
    """Bytes of weights on the device by stage.

    By stages follows diffusers' enable_model_cpu_offload: a network comes in when it is called, and the one before it
    in the pipeline's order leaves then. SVD's autoencoder comes in to encode the picture and stays till the end.
    Of streamed weights, those that come and go within a network's call are not among them.
    """
    weights = costs.weights
    everything = dict.fromkeys(stage_names(costs), sum(weights.values()))
    if residency == "stages" and not place.is_cpu:
        if costs.subject.kind == "svd":
            resident = {
                "encode image": weights["image_encoder"],
                "encode frame": weights["image_encoder"] + weights["vae"],
                "denoise": weights["unet"] + weights["vae"],
                "decode": weights["vae"],
            }
        else:
            resident = {
                "encode text": weights["text_encoder"],
                "denoise": weights["unet"],
                "decode": weights["vae"],
            }
        everything |= resident | {"denoise, rehash": resident["denoise"], "export": resident["decode"]}
    if residency == "streamed":
        in_host_memory = 0 if place.device.kind == "cuda" else sum(weights.values())
        return {name: in_host_memory + called_whole(costs).get(name, 0) for name in everything}
    if costs.subject.upcasts:  # the autoencoder is in float32 meanwhile
        everything["encode frame"] += weights["vae"]
    return everything


def called_whole(costs: PipelineCost) -> dict[str, int]:
    """Bytes of the networks that come and go as a whole where weights are streamed (weights/streaming.py)."""
    weights = costs.weights
    if costs.subject.kind == "svd":
        widened = 2 if costs.subject.upcasts else 1  # it is in float32 then
        return {"encode image": weights["image_encoder"], "encode frame": widened * costs.encoder_weights}
    return {"encode text": weights["text_encoder"]}


def stage_names(costs: PipelineCost) -> tuple[str, ...]:
    before = ("encode image", "encode frame") if costs.subject.kind == "svd" else ("encode text",)
    return (*before, "denoise", "denoise, rehash", "decode", "export")


def predict(costs: PipelineCost, plan: Plan, place: Place) -> Prediction:
    """What a run by a plan will take; one with a budget is capped, wherever it is."""
    if plan.budget_bytes is not None:
        place = place.capped
    if place.is_cpu:  # host memory is the device's own
        plan = replace(plan, denoiser=_without_host(plan.denoiser), decoder=_without_host(plan.decoder))
    subject, job, held = costs.subject, costs.job, costs.held
    dtype = subject.dtype
    resident = resident_bytes(costs, plan.residency, place)
    share = place.workspace_share(dtype)
    streamed = plan.residency == "streamed"

    def stage(
        name: str,
        count: int,
        around: int,
        activations: int,
        convolutions: int,
        seconds: float,
        kept: int = 0,
        weights: int = 0,
    ) -> StagePrediction:
        activations += around
        correction = place.correction.memory
        return StagePrediction(
            name=name,
            count=count,
            seconds=seconds * count,
            weights_bytes=resident[name] + weights,
            activation_bytes=round(activations * correction),
            kept_bytes=kept,
            workspace_bytes=place.workspace(activations, convolutions),
            context_bytes=place.device.context_bytes,
        )

    def encoder(name: str, around: int, sample: Sample, times: int = 1, width: torch.dtype = dtype) -> StagePrediction:
        convolutions = round(place.workspace_share(width) * sample.largest_convolution_bytes)
        seconds = times * place.seconds(sample.work, width, "encode")
        return stage(name, 1, around, round(sample.peak_bytes), convolutions, seconds)

    def network(name: str, count: int, around: int, cost: NetworkCost, kept: int = 0, inside: int = 0):
        """inside: the part of what is kept that the cost holds already."""
        activations, convolutions, weights = cost.worst(share)
        seconds = place.network_seconds(cost, dtype, name.split(",")[0])
        return stage(name, count, around, activations - inside, convolutions, seconds, kept, weights)

    stages = []
    if subject.kind == "svd":
        stages.append(encoder("encode image", held.condition, costs.condition))
        width = torch.float32 if subject.upcasts else dtype
        stages.append(encoder("encode frame", held.encode, costs.encode, width=width))
    else:
        stages.append(encoder("encode text", held.condition, costs.condition, costs.batch))

    steps = plan.steps(job.num_inference_steps)
    if plan.rehash is None:
        cost = costs.denoise(plan.denoiser, plan.guidance, streamed=streamed)
        stages.append(network("denoise", steps, held.denoise, cost))
    else:
        cut = find_cut(costs.denoiser.program, plan.rehash.cut)
        full = plan.rehash.count_full(steps)
        feature, before = kept_bytes(costs.denoiser.values[cut], plan.rehash)
        cost = costs.denoise(plan.denoiser, plan.guidance, keep=cut, streamed=streamed)
        stages.append(network("denoise", full, held.denoise, cost, feature + before, inside=feature))
        if full < steps:
            cost = costs.denoise(plan.denoiser, plan.guidance, given=cut, streamed=streamed)
            moved = feature if before else 0  # the extrapolated feature itself
            stages.append(network("denoise, rehash", steps - full, held.denoise, cost, feature + before + moved))
    stages.append(network("decode", costs.decodes, held.decode, costs.decode(plan.decoder, streamed=streamed)))
    seconds = place.seconds(export_work(job), torch.float32, "decode")
    stages.append(stage("export", 1, held.export, 0, 0, seconds))

    if plan.residency != "all" and not place.is_cpu:
        stages = [_with_transfer(one, costs, plan.residency) for one in stages]
    known = place.correction.exact(plan)
    tag = "measured here" if known else place.correction.tag
    memory_band, seconds_band = BANDS[tag]
    return Prediction(tuple(stages), tag, memory_band, seconds_band, CPU_NOTE if place.is_cpu else "")


def kept_bytes(value: Value, rehash: Rehash) -> tuple[int, int]:
    """Bytes that a feature takes between steps, and those of what extrapolation keeps beside it."""
    if not rehash.extrapolation:
        return value.nbytes, 0
    rows, channels, height, width = value.shape
    sparse = rows * channels * -(-height // SPARSE) * -(-width // SPARSE)
    return value.nbytes, value.nbytes + 2 * sparse * getattr(torch, value.dtype).itemsize


def _without_host(slicing: BlockSlicing) -> BlockSlicing:
    return tuple((block, replace(one, keep="rows") if one.keep == "host" else one) for block, one in slicing)


def _with_transfer(stage: StagePrediction, costs: PipelineCost, residency: str) -> StagePrediction:
    """Bringing weights in before a stage, once. By stages, what goes out is copied too, though it never changed."""
    if residency == "streamed":
        sent = called_whole(costs).get(stage.name, 0)
    else:
        brought = {
            "encode image": "image_encoder",
            "encode text": "text_encoder",
            "encode frame": "vae",
            "denoise": "unet",
            "decode": None if costs.subject.kind == "svd" else "vae",
        }.get(stage.name)
        sent = 0 if brought is None else 2 * costs.weights[brought]
    return replace(stage, seconds=stage.seconds + sent / HOST_BYTES_PER_SECOND)
