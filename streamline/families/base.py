"""What a family says of its models: everything that is known of them stands in its folder, and is asked for here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from ..errors import InputError, UnsupportedError
from ..fields import Field
from ..job import Job
from ..pictures import fit_to
from ..program.stages import Program
from ..registry import own_fields
from ..source import source_of
from ..store.finding import find
from .subject import Subject

Task = Literal["text-to-video", "image-to-video"]


@dataclass(frozen=True)
class Shape:
    """The extent of one call of a network. batch: samples. height, width: in latent pixels. tokens: of a prompt."""

    batch: int
    frames: int
    height: int
    width: int
    tokens: int = 77


@dataclass(frozen=True)
class Network:
    """How one class of network is run as a program.

    kind: the class, exactly. lower: network -> Program.
    forward: forward(network, execute, ...) takes what the network's own forward takes and returns what it returns, its
        features computed by execute(values, conditions).
    example: example(network, shape) -> the arguments of one such call, zeros.
    """

    kind: type[nn.Module]
    lower: Callable[[Any], Program]
    forward: Callable[..., Any]
    example: Callable[[Any, Shape], dict[str, Any]]


@dataclass(frozen=True)
class Half:
    """A part of a model that may be taken from elsewhere when it is loaded: its name, on forms and in help."""

    name: str
    label: str
    placeholder: str
    help: str


@dataclass(frozen=True)
class Model:
    """A model with a name of its own.

    source: hub id, or folder, of a diffusers pipeline; with parts, of the pipeline that they go into.
    label, about: what it is called on forms, and a clause about it. parts: (name of a Half, hub id) that make it up.
    job: (field, value) that suit it best, where its files do not say or the pipeline's own is wrong.
    sizes: (width, height) in pixels that it makes well.
    configs: of its networks by component, to plan it without its files; None where they have to be asked.
    is_small: it comes with this package. is_offered: it is listed; others are only there to be planned.
    """

    name: str
    task: Task
    source: str
    about: str
    label: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    job: tuple[tuple[str, Any], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    configs: Mapping[str, Mapping[str, Any]] | None = field(default=None, hash=False, compare=False, repr=False)
    is_small: bool = False
    is_offered: bool = True

    @property
    def is_here(self) -> bool:
        """Whether every file it needs is on this machine."""
        return all(find(source) is not None for source in (self.source, *(source for _, source in self.parts)))


@dataclass(frozen=True)
class Called:
    """A network that a pipeline calls as a whole.

    part: the component. example: network -> the arguments of one call, made where torch is set to make tensors.
    inner: the attribute of the component that is called, where that is not the component itself.
    dtype: that it computes in; None for the pipeline's own. Where it is wider, the weights are widened meanwhile.
    pixels: of all pictures in one call, to which what it takes is in proportion; 0 where it is the same for every job.
    gives: of one called beside the denoiser, the denoiser's arguments that its results become.
    """

    part: str
    example: Callable[[nn.Module], dict[str, Any]]
    inner: str = ""
    dtype: torch.dtype | None = None
    pixels: int = 0
    gives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phase:
    """What a pipeline does at one time, and what is on the device meanwhile beside a network's own tensors.

    name: as predictions have it. work: "call" a network as a whole, "denoise" or "decode" by a program, or "export", in
        which no network works.
    held_bytes: of the pipeline's own tensors. resident: components on the device where each comes for its phase
        (diffusers' enable_model_cpu_offload).
    times: calls of the network; of "denoise", rounds of all steps. frames: in one such call, by a program.
    called: of "call", the network.
    beside: of "denoise", a network that each step calls before the denoiser. Its results are held from then on, until
        the next step has its own: while the denoiser runs, and in all phases after.
    results: of "denoise", how many steps' results are held while the denoiser runs.
    """

    name: str
    work: Literal["call", "denoise", "decode", "export"]
    held_bytes: int
    resident: tuple[str, ...]
    times: int = 1
    frames: int = 0
    called: Called | None = None
    beside: Called | None = None
    results: int = 1


class Family:
    """A family of models. One that ships, or is registered, says what is its own and takes the rest from here.

    name: in lower case. pipelines: classes of diffusers that it runs. networks: that it knows to open.
    denoisers, autoencoder: components of its pipelines. components: all of them that have weights.
    fields: of its jobs, beside the common ones. halves: what may be taken from elsewhere. models: with names.
    advice: about pipelines that are not run here, by class name: how a sentence that begins with the model goes on.
    working: what a component does, in words that follow "memory ran out".
    guidance_argument: of the pipeline's call. published_tokens: that its models' prompts are padded to.
    side_multiple: of what height and width have to be one, in pixels.
    frame_step: the number of frames is 1 more than a multiple of it.
    clip_frames, is_chained: how naive slicing makes its videos (paper section 4.1): clips of so many frames, each from
        the last frame of the one before, or all by themselves.
    """

    name: str
    pipelines: tuple[type[DiffusionPipeline], ...]
    networks: tuple[Network, ...]
    denoisers: tuple[str, ...] = ("unet",)
    autoencoder: str = "vae"
    components: tuple[str, ...] = ("unet", "vae", "text_encoder")
    fields: tuple[Field, ...] = ()
    halves: tuple[Half, ...] = ()
    models: tuple[Model, ...] = ()
    advice: Mapping[str, str] = MappingProxyType({})
    working: Mapping[str, str] = MappingProxyType({})
    guidance_argument: str = "guidance_scale"
    published_tokens: int = 1
    side_multiple: int = 8
    frame_step: int = 1
    clip_frames: int = 4
    is_chained: bool = False

    def modules(self) -> set[str]:
        """Return the names of the modules that hold the family: the class, and what its networks are run by."""
        made_of = [*type(self).__mro__[:-1]]
        made_of += [part for network in self.networks for part in (network.lower, network.forward, network.example)]
        return {getattr(part, "__module__", None) or "" for part in made_of}

    # How a model is loaded.

    def sources(self, name: str, source: str, parts: Mapping[str, str]) -> dict[str, str]:
        """Return the hub ids and folders that a model is loaded from, that of its pipeline by the name "".

        name: as it was asked for. source: of its pipeline. parts: to be taken from elsewhere, by the names of `halves`.
        Raises ModelError for parts that make no model.
        """
        return {"": source, **parts}

    def check_host(self, source: str, kind: str) -> None:
        """Raise ModelError for a kind of pipeline that the parts do not go into."""

    def join(self, folders: Mapping[str, Path], options: Callable[[Path], Mapping[str, Any]]) -> DiffusionPipeline:
        """Return a pipeline from folders, by the names of `sources`. options: of from_pretrained, for a folder."""
        return DiffusionPipeline.from_pretrained(folders[""], **options(folders[""]))

    # Of a pipeline that is loaded.

    def denoisers_of(self, pipe: DiffusionPipeline) -> tuple[nn.Module, ...]:
        """Return the networks that are called in denoising steps, in the order of `denoisers`."""
        found = (getattr(pipe, name, None) for name in self.denoisers)
        return tuple(network for network in found if network is not None)

    def autoencoder_of(self, pipe: DiffusionPipeline) -> nn.Module:
        """Return the network that makes frames of latents."""
        return getattr(pipe, self.autoencoder)

    def task_of(self, pipe: DiffusionPipeline) -> Task:
        """Return what a pipeline starts from."""
        return "image-to-video" if "image" in _parameters(type(pipe)) else "text-to-video"

    def model_of(self, pipe: DiffusionPipeline) -> Model | None:
        """Return the model with a name that a pipeline was loaded from."""
        source = source_of(pipe)
        named = next((model for model in self.models if model.name == source.name), None)
        if named is not None and not source.parts:
            return named
        folder = Path(pipe.name_or_path or "").resolve()
        places = ((model, find(model.source)) for model in self.models if model.is_offered)
        return next((model for model, place in places if place is not None and place.resolve() == folder), None)

    def suited(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """Return the fields of a job of the size, length and guidance that a pipeline's model is made for."""
        model = self.model_of(pipe)
        return self.defaults(pipe) | (dict(model.job) if model is not None else {})

    def defaults(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """Return the same as far as the pipeline's own configuration says it."""
        raise NotImplementedError

    def guidance(self, pipe: DiffusionPipeline | None = None) -> float | None:
        """Return what a pipeline takes where a job leaves guidance to it: the default of its call.

        pipe: by default one of the family's first kind. None where a call has no such default.
        """
        found = _parameters(self.pipelines[0] if pipe is None else type(pipe)).get(self.guidance_argument)
        return found.default if found is not None and isinstance(found.default, int | float) else None

    def longest(self, pipe: DiffusionPipeline) -> int | None:
        """Return the most frames that a pipeline can make; None where nothing limits them."""
        return None

    def arguments(self, pipe: DiffusionPipeline, job: Job, image: Image.Image | None) -> dict[str, Any]:
        """Return what to call a pipeline with to do a job.

        An image is cut to the job's shape around its middle and resized, never stretched.
        Raises InputError when the model cannot do the job: nothing that is given is left out in silence.
        """
        known = _parameters(type(pipe))
        if any(name in known for name in ("video", "conditioning_frames")):
            raise InputError(
                f"{type(pipe).__name__} needs more than a prompt or an image; call it inside streamline.apply."
            )
        plain = ("height", "width", "num_frames", "num_inference_steps", "fps", *(field.name for field in self.fields))
        arguments = {name: getattr(job, name) for name in plain if name in known}
        if job.guidance_scale is not None:
            arguments[self.guidance_argument] = job.guidance_scale
        if "prompt" in known:
            if not job.prompt.strip():
                raise InputError("This model makes a video from text: write a prompt.")
            arguments |= {"prompt": job.prompt, "negative_prompt": job.negative_prompt or None}
        elif job.prompt or job.negative_prompt:
            raise InputError("This model makes a video from an image and reads no prompt.")
        if "image" in known:
            if image is None:
                raise InputError("This model makes a video from an image: give one.")
            arguments["image"] = fit_to(image, job)
        elif image is not None:
            raise InputError("This model makes a video from text and looks at no image.")
        self.check(pipe, job)
        return arguments

    def call(
        self,
        pipe: DiffusionPipeline,
        arguments: Mapping[str, Any],
        generator: torch.Generator,
        step_done: Callable[[int, int, Tensor], Tensor],
    ) -> tuple[Image.Image, ...]:
        """Call a pipeline, and return the frames of its first video as RGB pictures.

        step_done: step_done(index, steps, latents) is called after each step, and returns the latents to go on with.
        """

        def end_step(pipe: DiffusionPipeline, index: int, timestep: object, tensors: dict) -> dict:
            tensors["latents"] = step_done(index, pipe.num_timesteps, tensors["latents"])
            return tensors

        return tuple(pipe(**arguments, generator=generator, callback_on_step_end=end_step).frames[0])

    def check(self, pipe: DiffusionPipeline, job: Job) -> None:
        """Raise InputError for a job with options of other families, or of a size or length the model does not make."""
        own = {field.name for field in self.fields}
        for one in own_fields_of(job):
            if one.name not in own and getattr(job, one.name) != one.default:
                raise InputError(f"This model has no {one.words}; leave it out.")
        for name in ("height", "width"):
            if getattr(job, name) % self.side_multiple:
                raise InputError(f"The {name} must be a multiple of {self.side_multiple} for this model.")
        if (job.num_frames - 1) % self.frame_step:
            raise InputError(
                f"This model makes 1 frame more than a multiple of {self.frame_step}, not {job.num_frames}."
            )
        longest = self.longest(pipe)
        if longest is not None and job.num_frames > longest:
            raise InputError(f"This model makes at most {longest} frames, not {job.num_frames}.")

    def latent_frames(self, pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
        """Return a video's latents as (frames, channels, height, width); raises InputError for another shape."""
        raise NotImplementedError

    def colours(self, pipe: DiffusionPipeline, frames: Tensor) -> Tensor:
        """Return quick pictures of latents (frames, channels, height, width): (frames, 3, height, width), -1 to 1."""
        raise UnsupportedError(f"There are no previews for the latents of {type(pipe).__name__}.")

    # Of what is planned, which need not be loaded.

    def tokens(self, pipe: DiffusionPipeline) -> int:
        """Return how many tokens a prompt is padded to."""
        return 1

    def settings(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """Return what is set on a pipeline, beside its networks, that its cost depends on: plain data."""
        return {}

    def scale(self, subject: Subject) -> int:
        """Return how many pixels one latent pixel stands for, in each direction."""
        return 2 ** (len(subject.configs[self.autoencoder]["block_out_channels"]) - 1)

    def batch(self, job: Job) -> int:
        """Return how many samples one call of the denoiser has."""
        return 2 if job.is_guided else 1

    def phases(self, subject: Subject, job: Job) -> tuple[Phase, ...]:
        """Return what a pipeline does for a job, from the first phase to the last; one denoises, and one decodes.

        Raises UnsupportedError for a pipeline whose phases nobody has written down.
        """
        raise UnsupportedError(f"The cost of {subject.pipeline} is not known beforehand.")


def own_fields_of(job: Job) -> list[Field]:
    """Return the fields of a job's options."""
    return [own_fields()[name] for name, _ in job.options]


def _parameters(kind: type[DiffusionPipeline]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__call__).parameters
