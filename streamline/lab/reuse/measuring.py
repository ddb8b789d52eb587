"""What a reused feature does to the final latents, measured with few runs.

Reusing a feature changes the prediction of that step, and the rest of the run carries the change on to the final
latents. To first order changes add up, and the second half is the same whatever caused the first:

1. A run in full is recorded: the prediction of every step, and the features at every cut.
2. A second run answers from the record; at every step each reuse that a path could ask for is computed beside it, and
   how much it changes the guided prediction is noted. The changes of one step lie close to a few directions.
3. For every step and direction, one more run answers from the record up to there, is pushed off in that direction,
   and computes the rest: where it ends says what the push does to the final latents. What lies across all of these
   directions is taken to be carried on as it is, in the proportion in which they are.

So any path is judged by adding vectors up, without being run (search.py). Batches of samples are measured together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from ...applying.apply import apply
from ...applying.hooks import Hooks
from ...families.networks import call_arguments
from ...job import Job
from ...plan import Plan
from ...program.axes import FRAMES
from ...program.conditions import Conditions
from ...program.executor import Call, nothing
from ...program.stages import Stage
from ...sampler import sampler_arguments

DIRECTIONS = 2  # of the changes of one step
OLDEST = 4  # steps that a feature may be reused for
SKETCH = 2048  # dimensions that effects are kept in
TINY = 1e-12


@dataclass(frozen=True)
class CalibrationSample:
    """One video to calibrate on."""

    job: Job
    image: Image.Image | None = None


@dataclass(frozen=True)
class Reuse:
    """At one step, taking over what an earlier one kept. is_moved: extrapolated, undamped."""

    cut: str
    source: int
    is_moved: bool


@dataclass(frozen=True)
class Effects:
    """What every reuse at every step does to the final latents, to first order.

    of: step, reuse -> (samples, dimensions), lengths being relative to those of the final latents; see `_sketch`.
    """

    steps: int
    of: Mapping[tuple[int, Reuse], Tensor]


@dataclass(frozen=True)
class Record:
    """A run in full: final latents (samples, ...), and step by step predictions and features by cut."""

    latents: Tensor
    predictions: tuple[Tensor, ...]
    features: Mapping[str, tuple[Tensor, ...]]
    timesteps: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.predictions)


def batches_of(samples: Sequence[CalibrationSample]) -> list[list[CalibrationSample]]:
    """Return samples that one call of a pipeline can make together: alike but for prompt, image and seed."""
    groups: dict[Job, list[CalibrationSample]] = {}
    for sample in samples:
        groups.setdefault(replace(sample.job, prompt="", seed=0), []).append(sample)
    return list(groups.values())


def final_latents(
    pipe: DiffusionPipeline, batch: Sequence[CalibrationSample], plan: Plan | None = None, memory: object = None
) -> Tensor:
    """Return the latents a run ends with, (samples, ...); alike but for prompt, image and seed.

    plan: as for `run`; None runs the pipeline as it is. memory: runs the steps, as `Hooks.feature_cache`.
    """
    arguments = [call_arguments(pipe, one.job, one.image) for one in batch]
    together = dict(arguments[0])
    for name in ("prompt", "negative_prompt", "image"):
        if together.get(name) is not None:
            together[name] = [one[name] for one in arguments]
    if plan is not None and plan.sampler is not None:
        together |= sampler_arguments(pipe, plan.sampler)
    generators = [torch.Generator("cpu").manual_seed(one.job.seed) for one in batch]

    def call() -> Tensor:
        return pipe(**together, generator=generators, output_type="latent").frames

    if plan is None and memory is None:
        return call()
    with apply(pipe, plan or Plan(), Hooks(feature_cache=memory)):
        return call()


def relative_error(latents: Tensor, reference: Tensor) -> Tensor:
    """Return for each sample the length of the difference by that of the reference."""
    difference = (latents.float() - reference.float()).flatten(1).norm(dim=1)
    return difference / reference.float().flatten(1).norm(dim=1)


def record(pipe: DiffusionPipeline, batch: Sequence[CalibrationSample], cuts: Sequence[str]) -> Record:
    """Run a batch in full and keep what `effects` needs, on the host."""
    recorder = _Recorder(cuts)
    latents = final_latents(pipe, batch, memory=recorder)
    features = {cut: tuple(values) for cut, values in recorder.features.items()}
    timesteps = tuple(float(timestep) for timestep in recorder.timesteps)
    return Record(latents, tuple(recorder.predictions), features, timesteps)


def effects(
    pipe: DiffusionPipeline,
    batch: Sequence[CalibrationSample],
    known: Record,
    *,
    directions: int = DIRECTIONS,
    on_progress: Callable[[], object] = nothing,
) -> Effects:
    """Measure what every reuse does; on_progress is called after each of the runs that `runs_of` counts."""
    local = _Changes(pipe, known)
    final_latents(pipe, batch, memory=local)
    on_progress()

    reference = known.latents.float()
    lengths = reference.flatten(1).norm(dim=1, keepdim=True)
    of: dict[tuple[int, Reuse], Tensor] = {}
    for step, changes in enumerate(local.changes):
        if not changes:
            continue
        stacked = torch.stack(list(changes.values()), dim=1)  # samples, reuses, frames, channels, height, width
        rows = stacked.flatten(2)
        # Every reuse counts alike, for paths are made of those that change little.
        unit = rows / rows.norm(dim=2, keepdim=True).clamp_min(TINY)
        found = torch.linalg.svd(unit, full_matrices=False).Vh[:, :directions]
        along = rows @ found.mT  # samples, reuses, directions
        ends = []
        for direction in range(found.shape[1]):  # no more than there are reuses
            length = along[:, :, direction].square().mean(dim=1, keepdim=True).sqrt().clamp_min(TINY)
            push = (found[:, direction] * length).unflatten(1, stacked.shape[2:])
            end = final_latents(pipe, batch, memory=_Push(known, step, push)).float() - reference
            ends.append(_as_prediction(end.cpu(), stacked.shape[2:]) / length)
            on_progress()
        carried = torch.stack(ends, dim=1)  # samples, directions, elements
        gain = (carried * found).sum(dim=2).mean(dim=1)[:, None, None]
        final = along @ (carried - gain * found) + gain * rows
        final = _sketch(final / lengths[:, None].cpu())
        of |= {(step, reuse): final[:, index] for index, reuse in enumerate(changes)}
    return Effects(known.steps, of)


def runs_of(steps: int, directions: int = DIRECTIONS) -> int:
    """Return how many runs `effects` makes at most."""
    return 1 + (steps - 2) * directions


def _as_prediction(latents: Tensor, shape: torch.Size) -> Tensor:
    """Latents laid out as a prediction of that shape (frames, channels, ...), flat; some pipelines turn the two."""
    return (latents if latents.shape[1:] == shape else latents.transpose(1, 2)).flatten(1)


def _sketch(vectors: Tensor) -> Tensor:
    """Vectors, in the last dimension, in few dimensions and of nearly the same lengths, and so are all their sums.

    Elements are added up with random signs in random places (Charikar et al., Finding Frequent Items in Data Streams).
    """
    size = vectors.shape[-1]
    if size <= SKETCH:
        return vectors
    generator = torch.Generator().manual_seed(size)
    places = torch.randint(SKETCH, (size,), generator=generator)
    signs = torch.randint(2, (size,), generator=generator).mul_(2).sub_(1)
    return vectors.new_zeros(*vectors.shape[:-1], SKETCH).index_add_(-1, places, vectors * signs)


def similarity_map(known: Record, cut: str = "paper") -> Tensor:
    """Cosine similarity of a cut's feature between any two steps, (steps, steps), averaged over samples and frames."""
    features = torch.stack([value.float() for value in known.features[cut]]).flatten(2)  # steps, rows, elements
    unit = features / features.norm(dim=2, keepdim=True)
    return torch.einsum("ird,jrd->ijr", unit, unit).mean(dim=2)


class _Recorder:
    """Computes every step in full, and keeps predictions and features."""

    def __init__(self, cuts: Sequence[str]) -> None:
        self.predictions: list[Tensor] = []
        self.timesteps: list[Tensor | float] = []
        self.features: dict[str, list[Tensor]] = {cut: [] for cut in cuts}

    def execute(self, call: Call, timestep: Tensor | float) -> Tensor:
        names = {call.program.cache_point(cut): kept for cut, kept in self.features.items()}
        stages: list[Stage] = []
        for stage in call.program.stages:
            stages.append(stage)
            if stage.name in names:
                stages.append(_tap(stage, names[stage.name]))
        output = call.run(replace(call.program, stages=tuple(stages)))
        self.predictions.append(output.cpu())
        self.timesteps.append(timestep)
        return output

    def forget(self) -> None:
        """What was recorded is for after the run."""


def _tap(stage: Stage, kept: list[Tensor]) -> Stage:
    """A stage that keeps the whole value of another."""

    def run(conditions: Conditions, value: Tensor) -> Tensor:
        kept.append(value.cpu().clone())
        return value[:, :1]

    return Stage(f"{stage.name} kept", stage.block, FRAMES, run, (stage.name,))


class _Answers:
    """Answers steps from a record, as far as its `answer` does; the others are computed in full."""

    def __init__(self, known: Record) -> None:
        self._known = known
        self._step = 0

    def execute(self, call: Call, timestep: Tensor | float) -> Tensor:
        step, self._step = self._step, self._step + 1
        output = self.answer(step, call)
        return call.run() if output is None else output

    def answer(self, step: int, call: Call) -> Tensor | None:
        raise NotImplementedError

    def forget(self) -> None:
        """Nothing of the run is kept."""


class _Changes(_Answers):
    """Answers every step from the record, and notes beside it what each reuse would change.

    changes: by step and reuse, of the guided prediction, (samples, frames, channels, height, width) on the host.
    """

    def __init__(self, pipe: DiffusionPipeline, known: Record) -> None:
        super().__init__(known)
        self._pipe = pipe
        self.changes: list[dict[Reuse, Tensor]] = []

    def answer(self, step: int, call: Call) -> Tensor:
        like = call.values["sample"]
        recorded = self._known.predictions[step].to(like.device)
        found: dict[Reuse, Tensor] = {}
        if 0 < step < self._known.steps - 1:
            for cut in self._known.features:
                name = call.program.cache_point(cut)
                for reuse, feature in self._reuses(cut, step):
                    output = call.run(call.program.bind([name]), [feature.to(like.device)], name)
                    found[reuse] = _guided(self._pipe, output - recorded, call.conditions).cpu()
        self.changes.append(found)
        return recorded

    def _reuses(self, cut: str, step: int) -> list[tuple[Reuse, Tensor]]:
        """With every age; extrapolated as if the full steps had been as far apart before as they are now."""
        features, times = self._known.features[cut], self._known.timesteps
        found = []
        for source in range(max(0, step - OLDEST), step):
            found.append((Reuse(cut, source, False), features[source]))
            before = max(0, source - (step - source + 1))
            if before < source and times[before] != times[source]:
                weight = 1 + (times[step] - times[source]) / (times[source] - times[before])
                moved = torch.lerp(features[before], features[source], weight)
                found.append((Reuse(cut, source, True), moved))
        return found


class _Push(_Answers):
    """Answers from the record up to a step, whose prediction is pushed off; the rest is computed."""

    def __init__(self, known: Record, step: int, push: Tensor) -> None:
        """push: (samples, frames, channels, height, width), of the guided prediction."""
        super().__init__(known)
        self._at, self._push = step, push

    def answer(self, step: int, call: Call) -> Tensor | None:
        if step > self._at:
            return None
        recorded = self._known.predictions[step].to(call.values["sample"].device)
        if step < self._at:
            return recorded
        push = self._push.to(recorded).flatten(0, 1)
        return recorded + push.repeat(len(recorded) // len(push), 1, 1, 1)  # both halves of guidance


def _guided(pipe: DiffusionPipeline, rows: Tensor, conditions: Conditions) -> Tensor:
    """What the pipeline makes of a prediction's rows: (samples, frames, channels, height, width)."""
    video = rows.unflatten(0, (conditions.batch, conditions.frames)).float()
    if not pipe.do_classifier_free_guidance:
        return video
    free, led = video.chunk(2)
    return free + pipe.guidance_scale * (led - free)
