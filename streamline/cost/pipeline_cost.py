"""What each phase of a whole pipeline takes: the networks by their tables, and what the pipeline holds around them."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import threading
from collections.abc import Callable
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from ..cache import cache_folder, digest_of_code, digest_of_modules, read_json, write_json
from ..errors import UnsupportedError
from ..families.base import Called, Family, Phase, Shape
from ..families.networks import network_of
from ..families.running import run_network
from ..families.subject import Subject
from ..families.subjects import build_part
from ..job import Job
from ..plan import BlockSlicing
from ..program.casting import keep_in
from ..program.weights import other_weights, weights_of
from ..registry import family_named
from .measuring import Probe, Sample, Work, metered
from .network_cost import NetworkCost, compose, compose_sequential
from .table import Table
from .tracing import cast, cast_arguments

FLOAT32 = 4
VERSIONS = ("torch", "diffusers", "transformers")
# What a sample depends on beside the network: the code that runs it and the code that measures it.
CODE = ("program", "families", "cost", "hardware")


class PipelineCost:
    """The costs of one job on one pipeline, under any plan.

    subject: the pipeline. job: the video. phases: what the pipeline does for it.
    batch: samples in one call of the denoiser, 2 with guidance. height, width: in latent pixels.
    Measured samples are kept on disk; `save` writes what was found out since.
    Raises UnsupportedError for a pipeline whose phases are not known.
    """

    def __init__(self, subject: Subject, job: Job, folder: Path | None = None) -> None:
        """folder: where samples are kept; by default the one of `cache_folder`."""
        self.subject, self.job = subject, job
        self.family: Family = family_named(subject.family)
        self.phases = self.family.phases(subject, job)
        self.batch = self.family.batch(job)
        scale = self.family.scale(subject)
        self.height, self.width = job.height // scale, job.width // scale
        made_by = [_versions(), sys.version_info[:2], digest_of_code(*CODE)]  # what a call holds is Python's choice too
        made_by.append(digest_of_modules(self.family.modules()))
        key = [subject.describe(), self.height, self.width, job.num_frames, self.batch, *made_by]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
        self.folder = folder or cache_folder()
        self._path = self.folder / f"costs-{digest}.json"
        self._data = read_json(self._path) or {}
        self._mode = FakeTensorMode()
        self._measuring = threading.RLock()  # networks and mode are for one thread at a time
        self._networks: dict[tuple, nn.Module] = {}
        self._tables: list[Table] = []
        self._is_changed = False

    def denoise(
        self,
        slicing: BlockSlicing,
        guidance: str,
        *,
        keep: str | None = None,
        given: str | None = None,
        offloaded: bool = False,
    ) -> NetworkCost:
        """Return one denoising step. keep: a value kept for the next one. given: a value kept by the one before."""
        options = {"keep": keep, "given": given, "offloaded": offloaded}
        if guidance == "sequential":
            return compose_sequential(self.denoiser, self.half, slicing, **options)
        return compose(self.denoiser, slicing, **options)

    def decode(self, slicing: BlockSlicing, *, offloaded: bool = False) -> NetworkCost:
        """Return one call of the decoder, of all frames or of a chunk of them."""
        return compose(self.decoder, slicing, offloaded=offloaded)

    @cached_property
    def denoiser(self) -> Table:
        return self._table("denoise", self.batch)

    @cached_property
    def half(self) -> Table:
        """The denoiser given one sample."""
        return self.denoiser if self.batch == 1 else self._table("denoise", 1)

    @cached_property
    def decoder(self) -> Table:
        return self._table("decode", 1)

    @cached_property
    def denoising(self) -> Phase:
        return next(phase for phase in self.phases if phase.work == "denoise")

    @cached_property
    def decoding(self) -> Phase:
        return next(phase for phase in self.phases if phase.work == "decode")

    def held_bytes(self, phase: Phase) -> int:
        """Return what the pipeline holds while a phase's network runs, results of others among it."""
        if phase.work == "denoise":
            return phase.held_bytes + phase.results * self.left_bytes + self.denoiser.cast_bytes
        is_after = self.phases.index(phase) > self.phases.index(self.denoising)
        return phase.held_bytes + (self.left_bytes if is_after else 0)

    @cached_property
    def left_bytes(self) -> int:
        """Bytes of what one call beside the denoiser leaves."""
        beside = self.denoising.beside
        return 0 if beside is None else round(self.sample(beside).kept_bytes)

    def sample(self, called: Called, *, opened: bool = True) -> Sample:
        """Return one call of a network that is called as a whole. opened: as a program, where it is one."""
        name = f"{called.part}.{called.inner}" + ("" if opened else " untouched")
        samples = self._data.setdefault("called", {})
        if name not in samples:
            self._is_changed = True
            with self._measuring, self._mode, torch.no_grad():
                network = self._built(called.part, self._mode)
                if called.dtype not in (None, self.subject.dtype):
                    network = build_part(self.subject, called.part)
                    cast(network, called.dtype)
                given = called.example(network)
                inner = getattr(network, called.inner) if called.inner else network
                run = partial(run_network, inner, (), False) if opened and _is_known(inner) else inner
                samples[name] = metered(lambda: run(**given))[1].to_list()
        return Sample.from_list(samples[name])

    def untouched(self, phase: Phase) -> Sample:
        """Return one call of the denoiser, or of the decoder, as diffusers runs it."""
        samples = self._data.setdefault("untouched", {})
        name = f"{phase.work} {self.batch}"
        if name not in samples:
            self._is_changed = True
            with self._measuring, self._mode, torch.no_grad():
                network, arguments = self._fake(phase.work), self._arguments(phase, self.batch)
                samples[name] = metered(lambda: network(**arguments), [network])[1].to_list()
        return Sample.from_list(samples[name])

    @cached_property
    def weights(self) -> dict[str, int]:
        """Bytes of every network's weights and buffers, by component."""
        if "weights" not in self._data:
            self._is_changed = True
            self._data["weights"] = {}
            for part in self.subject.configs:
                self._data["weights"][part] = sum(tensor.nbytes for tensor in weights_of([self._meta(part)]))
        return self._data["weights"]

    def called_weights(self, called: Called) -> int:
        """Return bytes of the weights of what is called, as they are while it runs."""
        known, name = self._data.setdefault("called_weights", {}), f"{called.part}.{called.inner}"
        if name not in known:
            self._is_changed = True
            part = self._meta(called.part)
            inner = getattr(part, called.inner) if called.inner else part
            known[name] = sum(tensor.nbytes for tensor in weights_of([inner]))
        return round(known[name] * self.widening(called))

    def widening(self, called: Called | None) -> float:
        """Return how many times as wide the weights of what is called are while it runs."""
        if called is None or called.dtype is None:
            return 1.0
        return max(1.0, called.dtype.itemsize / self.subject.dtype.itemsize)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and frames of the job."""
        return self.job.height, self.job.width, self.job.num_frames

    def is_like(self, other: PipelineCost) -> bool:
        """Return whether all that was measured for one of them is true of the other: model and shape are the same."""
        return type(self) is type(other) and self._path == other._path

    def share(self, other: PipelineCost) -> None:
        """Use the networks that were built for another shape of the same model: they take a while, and memory."""
        if self.subject.describe() == other.subject.describe():
            self._networks, self._mode, self._measuring = other._networks, other._mode, other._measuring

    def for_job(self, job: Job, subject: Subject) -> PipelineCost:
        """Return these costs, with what was measured so far, for a job of the same shape with other steps or seed.

        subject: the same model, which may go by another name or schedule.
        """
        alike = copy.copy(self)
        alike.job, alike.subject = job, subject
        return alike

    @property
    def is_known(self) -> bool:
        """Whether this job was predicted before, so that little is left to measure."""
        return "weights" in self._data

    def remember(self, name: str, make: Callable[[], list]) -> list:
        """Return plain data that takes a while to work out, kept beside the samples under a name that says it all."""
        answers = self._data.setdefault("answers", {})
        if name not in answers:
            self._is_changed = True
            answers[name] = make()
        return answers[name]

    def save(self) -> None:
        """Write what was found out since to disk."""
        if self._is_changed or any(table.is_changed for table in self._tables):
            self._is_changed = False  # before it is written, for others may be adding to it
            for table in self._tables:
                table.is_changed = False
            write_json(self._path, self._data)
            FakeTensorMode.cache_clear()  # what torch keeps of operators by shape: it would grow with every size

    def _table(self, work: str, batch: int) -> Table:
        phase = self.denoising if work == "denoise" else self.decoding

        def open_probe() -> Probe:
            network = self._fake(work)
            with self._mode, torch.no_grad():
                return Probe(network, self._arguments(phase, batch))

        network = self._inner(work, self._meta(self._part(work)))
        data = self._data.setdefault(work, {})
        program = network_of(network).lower(network)
        others = sum(tensor.nbytes for tensor in other_weights(network, program))
        self._tables.append(Table(program, batch, phase.frames, open_probe, data, others, self._measuring))
        return self._tables[-1]

    def _arguments(self, phase: Phase, batch: int) -> dict:
        """Of one call, on tensors without data."""
        network = self._fake(phase.work)
        samples = batch if phase.work == "denoise" else 1
        shape = Shape(samples, phase.frames, self.height, self.width, self.subject.tokens)
        arguments = cast_arguments(network_of(network).example(network, shape), self.subject.dtype)
        return arguments | (self._given_by(phase.beside, batch) if phase.beside is not None else {})

    def _given_by(self, beside: Called, batch: int) -> dict:
        """What a network called beside the denoiser gives it, for so many samples."""
        network = self._built(beside.part, self._mode)
        results = network(**beside.example(network))
        rows = [tree_map(lambda each: each[: len(each) * batch // self.batch], result) for result in results]
        return dict(zip(beside.gives, rows, strict=True))

    def _part(self, work: str) -> str:
        return self.family.denoisers[0] if work == "denoise" else self.family.autoencoder

    def _inner(self, work: str, network: nn.Module) -> nn.Module:
        """Of an autoencoder, the decoder."""
        return getattr(network, "decoder", network) if work == "decode" else network

    def _fake(self, work: str) -> nn.Module:
        """What is sliced of a component, on fake tensors."""
        return self._inner(work, self._built(self._part(work), self._mode))

    def _meta(self, part: str) -> nn.Module:
        """The whole component on the meta device, which is made faster but takes other paths through some operators."""
        return self._built(part, torch.device("meta"))

    def _built(self, part: str, where: FakeTensorMode | torch.device) -> nn.Module:
        with self._measuring:
            if (part, where) not in self._networks:
                with torch.no_grad(), where:
                    network = build_part(self.subject, part)
                    cast(network, self.subject.dtype)
                # What casting takes is added where it happens: weights without data cannot be cast on their way.
                is_kept = part in self.family.denoisers and self.subject.storage is not None
                if is_kept and where == torch.device("meta"):
                    keep_in(self.subject.storage, network, self.subject.dtype)
                self._networks[part, where] = network
            return self._networks[part, where]


def _is_known(network: nn.Module) -> bool:
    try:
        network_of(network)
    except UnsupportedError:
        return False
    return True


def _versions() -> dict[str, str]:
    return {package: version(package) for package in VERSIONS}


def export_work(job: Job) -> Work:
    """Return the work of scaling the frames into pictures: read and written a few times over."""
    return Work(0, 0, 8 * FLOAT32 * job.num_frames * 3 * job.height * job.width, 10 * job.num_frames)
