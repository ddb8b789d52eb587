"""What each stage of a whole pipeline takes: the networks by their tables, and what the pipeline holds around them.

A pipeline's call keeps its local variables until it returns: the picture it started from, the latents, the last
prediction and the embeddings are alive while the decoder runs. They are counted here as diffusers 0.42 holds
them, in bytes; next to the networks they are small.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..cache import cache_folder, digest_of_code, read_json, write_json
from ..families.networks import family_of
from ..families.running import run_network
from ..job import Job
from ..plan import BlockSlicing
from ..program.casting import keep_in
from ..program.weights import other_weights, weights_of
from .measuring import Probe, Sample, Work, metered
from .network_cost import NetworkCost, compose, compose_apart
from .subject import Subject
from .table import Table
from .tracing import cast, cast_arguments

FLOAT32 = 4
ANIMATEDIFF_CHUNK = 16  # frames that its pipeline decodes at a time
VERSIONS = ("torch", "diffusers", "transformers")
# What a sample depends on beside the network: the code that runs it and the code that measures it.
CODE = ("program", "families", "cost", "hardware")


@dataclass(frozen=True)
class Held:
    """What the pipeline itself holds while a stage runs, in bytes."""

    condition: int
    encode: int
    denoise: int
    decode: int
    export: int


class PipelineCost:
    """The costs of one job on one pipeline, under any plan.

    subject: the pipeline. job: the video. batch: samples in one call of the denoiser, 2 with guidance.
    Measured samples are kept on disk; `save` writes what was found out since.
    """

    def __init__(self, subject: Subject, job: Job, folder: Path | None = None) -> None:
        """folder: where samples are kept; by default the one of `cache_folder`."""
        self.subject, self.job = subject, job
        self.batch = 2 if job.is_guided else 1
        self.height, self.width = job.height // subject.scale, job.width // subject.scale
        made_by = [_versions(), sys.version_info[:2], digest_of_code(*CODE)]  # what a call holds is Python's choice too
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
        streamed: bool = False,
    ) -> NetworkCost:
        """One denoising step. keep: a value to be kept for the next one. given: a value kept by the one before."""
        options = {"keep": keep, "given": given, "streamed": streamed}
        if guidance == "apart":
            return compose_apart(self.denoiser, self.half, slicing, **options)
        return compose(self.denoiser, slicing, **options)

    def decode(self, slicing: BlockSlicing, *, streamed: bool = False) -> NetworkCost:
        """One call of the decoder, of all frames or of a chunk of them."""
        return compose(self.decoder, slicing, streamed=streamed)

    @cached_property
    def denoiser(self) -> Table:
        return self._table("unet", self.batch, self.job.num_frames)

    @cached_property
    def half(self) -> Table:
        """The denoiser given one sample."""
        return self.denoiser if self.batch == 1 else self._table("unet", 1, self.job.num_frames)

    @cached_property
    def decoder(self) -> Table:
        return self._table("vae", 1, self.chunk)

    @property
    def chunk(self) -> int:
        """Frames that are decoded at a time."""
        is_image_decoder = self.subject.kind == "animatediff"
        return min(self.job.num_frames, ANIMATEDIFF_CHUNK) if is_image_decoder else self.job.num_frames

    @property
    def decodes(self) -> int:
        return -(-self.job.num_frames // self.chunk)

    @cached_property
    def condition(self) -> Sample:
        """The image or text encoder, for all samples."""
        if self.subject.kind == "svd":
            side = self.subject.configs["image_encoder"]["image_size"]
            return self._encoder("image_encoder", lambda: torch.zeros(1, 3, side, side, dtype=self.subject.dtype))
        return self._encoder("text_encoder", lambda: torch.zeros(1, self.subject.tokens, dtype=torch.long))

    @cached_property
    def encode(self) -> Sample:
        """The autoencoder's encoder on SVD's picture."""
        shape = (1, 3, self.job.height, self.job.width)
        dtype = torch.float32 if self.subject.upcasts else self.subject.dtype
        return self._encoder("vae", lambda: torch.zeros(shape, dtype=dtype), dtype)

    @cached_property
    def weights(self) -> dict[str, int]:
        """Bytes of every network's weights and buffers, by part."""
        if "weights" not in self._data:
            self._is_changed = True
            self._data["weights"] = {}
            for part in self.subject.configs:
                self._data["weights"][part] = sum(tensor.nbytes for tensor in weights_of([self._meta(part)]))
        return self._data["weights"]

    @cached_property
    def encoder_weights(self) -> int:
        """Bytes of the part of the autoencoder that encodes."""
        if "encoder_weights" not in self._data:
            self._is_changed = True
            tensors = weights_of([self._meta("vae").encoder])
            self._data["encoder_weights"] = sum(tensor.nbytes for tensor in tensors)
        return self._data["encoder_weights"]

    @cached_property
    def held(self) -> Held:
        """Follows the local variables of the pipelines' __call__ and decode_latents."""
        job, size, frames = self.job, self.subject.dtype.itemsize, self.job.num_frames
        latents = frames * 4 * self.height * self.width * size
        picture = 3 * job.height * job.width * FLOAT32
        video = frames * 3 * job.height * job.width
        # The prediction is kept as the two halves it came as, and as guided; it is replaced a step later.
        prediction = latents * (self.batch + 1 if self.batch > 1 else 1)
        if self.subject.kind == "svd":
            embeddings = self.batch * self.subject.configs["unet"]["cross_attention_dim"] * size
            condition = 2 * picture
            encode = 2 * picture + embeddings
            image_latents = self.batch * latents
            model_input = 2 * self.batch * latents
            around = encode + latents + image_latents
        else:
            width = self.subject.configs["unet"]["cross_attention_dim"]
            embeddings = self.batch * (frames + 1) * self.subject.tokens * width * size
            condition = encode = 0
            model_input = self.batch * latents
            around = embeddings + latents
        loop = around + model_input + prediction
        # For its callback the loop calls locals(), which holds the input of the step before until the next call.
        denoise = loop + (model_input if sys.version_info < (3, 13) else 0) + self.denoiser.cast_bytes
        decode = loop + latents  # and scaled for the decoder
        if self.subject.configs["vae"].get("use_post_quant_conv", self.subject.kind == "animatediff"):  # makes others
            decode += latents * self.chunk // frames
        # Decoded frames are joined, then cast to float32; after that they are scaled into a list and stacked.
        casting = video * (2 * size + (FLOAT32 if size < FLOAT32 else 0))
        export = loop + max(casting, 3 * video * FLOAT32)
        return Held(condition, encode, denoise, decode, export)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and frames of the job."""
        return self.job.height, self.job.width, self.job.num_frames

    def is_like(self, other: PipelineCost) -> bool:
        """Whether all that was measured for one of them is true of the other: model and shape are the same."""
        return type(self) is type(other) and self._path == other._path

    def share(self, other: PipelineCost) -> None:
        """Use the networks that were built for another shape of the same model: they take a while, and memory."""
        if self.subject.describe() == other.subject.describe():
            self._networks, self._mode, self._measuring = other._networks, other._mode, other._measuring

    def for_job(self, job: Job, subject: Subject) -> PipelineCost:
        """These costs, with what was measured so far, for a job of the same shape with other steps or another seed.

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
        """Plain data that takes a while to work out, kept beside the samples under a name that says it all."""
        answers = self._data.setdefault("answers", {})
        if name not in answers:
            self._is_changed = True
            answers[name] = make()
        return answers[name]

    def save(self) -> None:
        if self._is_changed or any(table.is_changed for table in self._tables):
            write_json(self._path, self._data)
            self._is_changed = False
            for table in self._tables:
                table.is_changed = False
            FakeTensorMode.cache_clear()  # what torch keeps of operators by shape: it would grow with every size

    def _table(self, part: str, batch: int, frames: int) -> Table:
        def open_probe() -> Probe:
            network = self._fake(part)
            with self._mode, torch.no_grad():
                arguments = family_of(network).example(network, batch, frames, self.height, self.width)
                if "encoder_hidden_states" in arguments and self.subject.kind == "animatediff":
                    text = arguments["encoder_hidden_states"]
                    arguments["encoder_hidden_states"] = text.new_zeros(len(text), self.subject.tokens, text.shape[2])
                return Probe(network, cast_arguments(arguments, self.subject.dtype))

        network = _sliced(self._meta(part))
        data = self._data.setdefault(part, {})
        program = family_of(network).lower(network)
        others = sum(tensor.nbytes for tensor in other_weights(network, program))
        self._tables.append(Table(program, batch, frames, open_probe, data, others, self._measuring))
        return self._tables[-1]

    def _fake(self, part: str) -> nn.Module:
        """What is sliced of a part, on fake tensors."""
        return _sliced(self._built(part, self._mode))

    def _meta(self, part: str) -> nn.Module:
        """The whole part on the meta device, which is made faster but takes other paths through some operators."""
        return self._built(part, torch.device("meta"))

    def _built(self, part: str, where: FakeTensorMode | torch.device) -> nn.Module:
        with self._measuring:
            if (part, where) not in self._networks:
                with torch.no_grad(), where:
                    network = self.subject.build(part)
                    cast(network, self.subject.dtype)
                # What casting takes is added where it happens: weights without data cannot be cast on their way.
                if part == "unet" and self.subject.storage is not None and where == torch.device("meta"):
                    keep_in(self.subject.storage, network, self.subject.dtype)
                self._networks[part, where] = network
            return self._networks[part, where]

    def _encoder(self, part: str, example: Callable[[], Tensor], dtype: torch.dtype | None = None) -> Sample:
        """One call of a network that encodes; that of an autoencoder is run as a program."""
        samples = self._data.setdefault("encoders", {})
        if part not in samples:
            self._is_changed = True
            with FakeTensorMode(), torch.no_grad():
                network = self.subject.build(part)
                cast(network, dtype or self.subject.dtype)
                argument = example()
                run = partial(run_network, network.encoder, (), False) if part == "vae" else network
                samples[part] = metered(lambda: run(argument))[1].to_list()
        return Sample.from_list(samples[part])


def _sliced(network: nn.Module) -> nn.Module:
    """Of an autoencoder, the decoder."""
    return getattr(network, "decoder", network)


def _versions() -> dict[str, str]:
    return {package: version(package) for package in VERSIONS}


def export_work(job: Job) -> Work:
    """Scaling the frames into pictures: read and written a few times over."""
    return Work(0, 0, 8 * FLOAT32 * job.num_frames * 3 * job.height * job.width, 10 * job.num_frames)
