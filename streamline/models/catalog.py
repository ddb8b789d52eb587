"""Models by name, hub id or folder, and how they are loaded: `pipe = load("tiny-svd")`."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, DiffusionPipeline, MotionAdapter
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from torch import nn

from ..errors import InputError, ModelError
from ..families.networks import PIPELINES
from ..hardware.detection import detect
from ..program.casting import FLOAT8, keep_in
from ..weights.residency import bring, is_hooked
from .weights import check_weights, has_weights

Task = Literal["text-to-video", "image-to-video"]

BUNDLED = Path(__file__).parents[2] / "assets" / "models"
NETWORKS = {"unet", "vae", "text_encoder", "image_encoder", "motion_adapter"}  # components that have weights
PICKLES = {".bin", ".ckpt", ".pt", ".pth"}
HUB_TIMEOUT = 10.0  # seconds to wait for the hub's first answer


@dataclass(frozen=True)
class Model:
    """A model with a name of its own.

    source: hub id, or folder, of a diffusers pipeline; with a motion adapter, of the image model it moves.
    motion_adapter: hub id or folder, for AnimateDiff models that come in two halves.
    num_frames, guidance_scale: what suits it best, where its files do not say or the pipeline's own is wrong.
    """

    name: str
    task: Task
    source: str
    about: str
    motion_adapter: str | None = None
    num_frames: int | None = None
    guidance_scale: float | None = None

    @property
    def is_here(self) -> bool:
        """Whether every file it needs is on this machine."""
        sources = [self.source] if self.motion_adapter is None else [self.source, self.motion_adapter]
        return all(find(source) is not None for source in sources)


MODELS = (
    Model(
        "tiny-animatediff",
        "text-to-video",
        str(BUNDLED / "tiny-animatediff"),
        "moving shapes from a sentence, made for trying things out on any machine",
        num_frames=8,
        guidance_scale=3.0,
    ),
    Model(
        "tiny-svd",
        "image-to-video",
        str(BUNDLED / "tiny-svd"),
        "moving shapes from a picture, made for trying things out on any machine",
        guidance_scale=1.5,
    ),
    Model(
        "animatediff",
        "text-to-video",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "AnimateDiff v1.5-3 on Stable Diffusion 1.5, 16 frames of 512x512",
        motion_adapter="guoyww/animatediff-motion-adapter-v1-5-3",
    ),
    Model(
        "svd",
        "image-to-video",
        "stabilityai/stable-video-diffusion-img2vid",
        "Stable Video Diffusion, 14 frames of 576x1024",
    ),
    Model(
        "svd-xt",
        "image-to-video",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        "Stable Video Diffusion XT, 25 frames of 576x1024",
    ),
)


def model_of(pipe: DiffusionPipeline) -> Model | None:
    """The model with a name that a pipeline was loaded from."""
    folder = Path(pipe.name_or_path or "").resolve()
    places = ((model, find(model.source)) for model in MODELS)
    return next((model for model, place in places if place is not None and place.resolve() == folder), None)


def load(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    base: str | None = None,
    motion_adapter: str | None = None,
    offline: bool = False,
) -> DiffusionPipeline:
    """A pipeline, ready to run, from safetensors files only.

    name: one of MODELS, any hub id, or a local folder in diffusers' layout.
    device: where it goes; by default the CUDA GPU if there is one. Where the GPU has no room for all weights at once,
    they stay in host memory and each network comes when it is called (diffusers' enable_model_cpu_offload).
    dtype: of its weights; by default half precision on a GPU and float32 on a CPU. With torch.float8_e4m3fn those of
    the UNet's large layers are kept in 8 bits and all is computed as by default, which gives another, similar video.
    base, motion_adapter: another image model, or another motion adapter, for an AnimateDiff model.
    offline: use only what is on this machine already. What is complete here is never asked for again.

    Raises ModelError, with a sentence that says what to do, when the model cannot be had, and InputError for
    a device that this machine does not have.
    """
    model = next((model for model in MODELS if model.name == name), None)
    adapter = motion_adapter or (model.motion_adapter if model else None)
    if base is not None and adapter is None:
        raise ModelError(f"{name} has no base to exchange; a base goes with animatediff or a motion adapter.")
    source = base or (model.source if model else name)

    device = device_for(device)
    is_float8 = dtype == FLOAT8
    if dtype is None or is_float8:
        dtype = computed_in(device.type)
    half = dtype in (torch.float16, torch.bfloat16)
    folder = find(source) or _download(source, half=half, offline=offline)
    _check_kind(source, folder, adapter)
    _check_files(folder)

    def options(folder: Path) -> dict:
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")]
        return {"dtype": dtype, "use_safetensors": True, "variant": _variant(files, half)}

    try:
        if adapter is None:
            pipe = DiffusionPipeline.from_pretrained(folder, **options(folder))
        else:
            adapter_folder = find(adapter) or _download(adapter, half=half, offline=offline)
            _check_files(adapter_folder)
            motion = MotionAdapter.from_pretrained(adapter_folder, **options(adapter_folder))
            pipe = AnimateDiffPipeline.from_pretrained(folder, motion_adapter=motion, **options(folder))
            pipe.scheduler = _animatediff_scheduler(pipe)
        if is_float8:
            keep_in(FLOAT8, pipe.unet, dtype)
        return place(pipe, device)
    except (OSError, ValueError, SafetensorError, NotImplementedError) as error:  # the last: weights were missing
        raise ModelError(f"The files of {name} in {folder} cannot be read: {error}") from error


def computed_in(device: str) -> torch.dtype:
    """What a kind of device computes in where nobody asks for anything else."""
    return torch.float16 if device == "cuda" else torch.float32


def place(pipe: DiffusionPipeline, device: str | torch.device) -> DiffusionPipeline:
    """The pipeline on its device; where a GPU cannot hold all weights at once, each network comes when it is called."""
    device = torch.device(device)
    if is_hooked(pipe):
        return pipe  # each network comes when it is called already
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    tensors = [tensor for part in networks for tensor in (*part.parameters(), *part.buffers())]
    missing = sum(tensor.nbytes for tensor in tensors if tensor.device.type != device.type)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # what PyTorch keeps for later is free, too
    if device.type == "cuda" and missing > detect(device).free_bytes:
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    bring(pipe, device)
    return pipe


def device_for(wanted: str | torch.device | None) -> torch.device:
    """A device by torch's name for it, or the CUDA GPU if there is one. Raises InputError for one that is not here."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device).item()  # fails for meta too, which holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"This machine, or its PyTorch, has no device {str(wanted)!r}.") from error
    return device


def _check_kind(source: str, folder: Path, adapter: str | None) -> None:
    """Raise ModelError unless the folder holds a video pipeline, or an image pipeline that has an adapter."""
    kind = (_index(folder) or {}).get("_class_name", "single network")
    if adapter is not None and kind != "StableDiffusionPipeline":
        raise ModelError(f"A motion adapter moves a Stable Diffusion 1.5 model, but {source} is a {kind}.")
    if adapter is None and kind == "StableDiffusionPipeline":
        raise ModelError(f"{source} makes images; to move them, use animatediff with this as its base.")
    if adapter is None and kind not in {pipeline.__name__ for pipeline in PIPELINES}:
        raise ModelError(f"{source} is a {kind}, which is not among the video models that can be run here.")


def _animatediff_scheduler(pipe: AnimateDiffPipeline) -> DDIMScheduler:
    """The schedule motion adapters were trained with; the image model's own makes grey, flickering video."""
    return DDIMScheduler.from_config(
        pipe.scheduler.config,
        beta_schedule="linear",
        timestep_spacing="linspace",
        clip_sample=False,
        steps_offset=1,
    )


def find(source: str) -> Path | None:
    """The complete folder of a hub id or path, if it is on this machine."""
    try:
        folder = Path(source).expanduser()
        if not folder.is_dir() and _is_hub_id(source):
            cached = (try_to_load_from_cache(source, index) for index in ("model_index.json", "config.json"))
            folder = next((Path(file).parent for file in cached if isinstance(file, str)), folder)
        return folder if _is_complete(folder) else None
    except ModelError:
        raise
    except (RuntimeError, OSError, ValueError):  # no such user's home, a name too long: nothing can be there
        return None


def _is_hub_id(source: str) -> bool:
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return "/" in source


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds the weights of every network in its index (a lone network has no index)."""
    index = _index(folder)
    if index is None:
        return (folder / "config.json").is_file() and has_weights(folder)
    present = [name for name, kind in index.items() if name in NETWORKS and any(kind)]
    others = [name for name in ("tokenizer", "scheduler", "feature_extractor") if any(index.get(name) or ())]
    return (
        bool(present)
        and all(has_weights(folder / name) for name in present)
        and all((folder / name).is_dir() for name in others)
    )


def _check_files(folder: Path) -> None:
    """Raise ModelError for files of weights that were cut short, before time is spent on loading them."""
    index = _index(folder)
    for place in [folder] if index is None else [folder / name for name in sorted(NETWORKS & set(index))]:
        check_weights(place)


def _index(folder: Path) -> dict | None:
    """What model_index.json says, None where there is none; raises ModelError if it cannot be read."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / 'model_index.json'} cannot be read: {error}") from error
    if not isinstance(index, dict):
        raise ModelError(f"{folder / 'model_index.json'} cannot be read: it is no JSON object.")
    for name in NETWORKS & set(index):
        if not isinstance(index[name], list):
            raise ModelError(f"{folder / 'model_index.json'} cannot be read: its {name} is no pair of names.")
    return index


def _download(source: str, *, half: bool, offline: bool) -> Path:
    """Fetch the files of a hub id that are needed; raises ModelError with what to do where that fails."""
    is_folder = os.path.isdir(source)  # False where Path.is_dir would raise, as for a name too long
    if is_folder:
        _refuse_pickles(source, [path.relative_to(source).as_posix() for path in Path(source).glob("**/*.*")])
    if is_folder or not _is_hub_id(source):
        known = ", ".join(model.name for model in MODELS)
        raise ModelError(
            f"{source} is not a folder with a complete diffusers model; "
            f"name such a folder, a hub id (organisation/name), or one of {known}."
        )
    absent = "connect once and it is fetched, or name a folder that holds a copy of it."
    if offline:
        raise ModelError(f"{source} is not on this machine: {absent}")
    try:
        files = [file.rfilename for file in HfApi().model_info(source, timeout=HUB_TIMEOUT).siblings]
        _refuse_pickles(source, files)
        variant = _variant(files, half)
        if "model_index.json" in files:
            # The safety checker belongs to the image pipeline; the video pipelines have no place for it.
            folder = DiffusionPipeline.download(source, variant=variant, use_safetensors=True, safety_checker=None)
        else:
            weights = f"*.{variant}.safetensors" if variant else "diffusion_pytorch_model.safetensors"
            folder = snapshot_download(source, allow_patterns=["config.json", weights])
    except GatedRepoError as error:
        raise ModelError(
            f"{source} wants its licence accepted: do so on https://huggingface.co/{source}, then run `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hugging Face hub shows no model {source}: check the name, "
            "or run `hf auth login` if it is a private one."
        ) from error
    except (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{source} is not on this machine and the Hugging Face hub cannot be reached: {absent}"
        ) from error
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{source} could not be downloaded: {reason}") from error
    if not _is_complete(Path(folder)):
        raise ModelError(f"{source} has no complete set of safetensors files in diffusers' layout.")
    return Path(folder)


def _refuse_pickles(source: str, files: Iterable[str]) -> None:
    """Raise ModelError if some network has weights only in a format that can run code when it is read."""
    paths = [PurePosixPath(file) for file in files]
    folders = NETWORKS if PurePosixPath("model_index.json") in paths else {""}
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    for path in paths:
        if path.suffix in PICKLES and path.parent.name in folders and path.parent not in safe:
            raise ModelError(f"{source} has only pickled weights ({path}), which are not loaded; safetensors are.")


def _variant(files: Iterable[str], half: bool) -> str | None:
    """ "fp16" for the half-precision files of a model, None for the full ones.

    The full ones can always be loaded in half precision, and the other way round, so what is there is used.
    files: paths relative to the model's folder.
    """
    weights = [PurePosixPath(file) for file in files if file.endswith(".safetensors")]
    full = [file for file in weights if ".fp16." not in file.name]
    has_all_full = {file.parent for file in full} == {file.parent for file in weights}
    return "fp16" if len(full) < len(weights) and (half or not has_all_full) else None
