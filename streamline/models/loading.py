"""Load a model by name, hub id or folder: `pipe = load("tiny-svd")`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from torch import nn

from ..errors import InputError, ModelError, UnsupportedError
from ..families.base import Family
from ..families.naming import model_named, models
from ..families.networks import denoisers_of
from ..hardware.detection import detect
from ..program.casting import FLOAT8, keep_in
from ..registry import families, family_of
from ..source import Source, remember_source
from ..store.finding import check_files, components, find, is_complete, is_hub_id, read_index
from ..weights.residency import bring, is_hooked

PICKLES = {".bin", ".ckpt", ".pt", ".pth"}
HUB_TIMEOUT = 10.0  # seconds to wait for the hub's first answer


def load(
    name: str | Source,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offline: bool = False,
    **parts: str | None,
) -> DiffusionPipeline:
    """Return a pipeline, ready to run, from safetensors files only.

    name: of a model, any hub id, or a local folder in diffusers' layout; or a Source, which has the parts too.
    device: where it goes; by default the CUDA GPU if there is one. Where the GPU has no room for all weights at once,
    they stay in host memory and each network comes when it is called (diffusers' enable_model_cpu_offload).
    dtype: of its weights; by default half precision on a GPU and float32 on a CPU. With torch.float8_e4m3fn those
    of the denoiser's large layers are kept in 8 bits and all is computed as by default, for another, similar video.
    offline: use only what is on this machine already. What is complete here is never asked for again.
    parts: hub ids or folders of what is taken in the place of the model's own, by the names that its family has for
    them: base and motion_adapter for AnimateDiff.

    Raises ModelError, with a sentence that says what to do, when the model cannot be had, and InputError for
    a device that this machine does not have or a part that no family has.
    """
    source = name if isinstance(name, Source) else Source(name, parts)
    device = device_for(device)
    is_float8 = dtype == FLOAT8
    if dtype is None or is_float8:
        dtype = computed_in(device.type)
    half = dtype in (torch.float16, torch.bfloat16)
    family, wanted = _wanted(source)
    folders = {}
    for part, where in wanted.items():
        folders[part] = find(where) or _download(where, half=half, offline=offline)
        if part == "":
            _check_kind(where, folders[part], family)
        check_files(folders[part])

    def options(folder: Path) -> dict[str, Any]:
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")]
        return {"dtype": dtype, "use_safetensors": True, "variant": _variant(files, half)}

    try:
        join: Callable[..., DiffusionPipeline] = _open if family is None else family.join
        pipe = join(folders, options)
        remember_source(pipe, source)
        if is_float8:
            for denoiser in denoisers_of(pipe):
                keep_in(FLOAT8, denoiser, dtype)
        return place(pipe, device)
    except (OSError, ValueError, SafetensorError, NotImplementedError) as error:  # the last: weights were missing
        raise ModelError(f"The files of {source.name} in {folders['']} cannot be read: {error}") from error


def _open(folders: dict[str, Path], options: Callable[[Path], dict[str, Any]]) -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(folders[""], **options(folders[""]))


def _wanted(source: Source) -> tuple[Family | None, dict[str, str]]:
    """Hub ids and folders to be had, that of the pipeline by the name "", and the family that joins them.

    None for a model that comes in one piece.
    """
    model = model_named(source.name)
    parts = (dict(model.parts) if model is not None else {}) | dict(source.parts)
    where = source.name if model is None else model.source
    if not parts:
        return None, {"": where}
    its_own_first = sorted(families(), key=lambda family: model not in family.models)
    for family in its_own_first:
        if set(parts) <= {half.name for half in family.halves}:
            return family, family.sources(source.name, where, parts)
    raise InputError(f"No model has a part called {sorted(parts)[0]!r} that could be taken from elsewhere.")


def _check_kind(source: str, folder: Path, family: Family | None) -> None:
    """Raise ModelError unless the folder holds a pipeline that is run here, or one that the family's parts go into."""
    kind = (read_index(folder) or {}).get("_class_name", "single network")
    if family is not None:
        family.check_host(source, kind)
        return
    for one in families():
        if kind in one.advice:
            raise ModelError(f"{source} {one.advice[kind]}")
    try:
        family_of(str(kind))
    except UnsupportedError:
        raise ModelError(f"{source} is a {kind}, which is not among the video models that can be run here.") from None


def computed_in(device: str) -> torch.dtype:
    """Return what a kind of device computes in where nobody asks for anything else."""
    return torch.float16 if device == "cuda" else torch.float32


def place(pipe: DiffusionPipeline, device: str | torch.device) -> DiffusionPipeline:
    """Move a pipeline to its device and return it;
    where a GPU cannot hold all weights at once, each network comes when it is called."""
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
    """Return a device by torch's name for it, or the CUDA GPU if there is one.
    Raises InputError for one that is not here."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device).item()  # fails for meta too, which holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"This machine, or its PyTorch, has no device {str(wanted)!r}.") from error
    return device


def _download(source: str, *, half: bool, offline: bool) -> Path:
    """Fetch the files of a hub id that are needed; raises ModelError with what to do where that fails."""
    is_folder = os.path.isdir(source)  # False where Path.is_dir would raise, as for a name too long
    if is_folder:
        _refuse_pickles(source, [path.relative_to(source).as_posix() for path in Path(source).glob("**/*.*")])
    if is_folder or not is_hub_id(source):
        known = ", ".join(model.name for model in models())
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
    if not is_complete(Path(folder)):
        raise ModelError(f"{source} has no complete set of safetensors files in diffusers' layout.")
    return Path(folder)


def _refuse_pickles(source: str, files: Iterable[str]) -> None:
    """Raise ModelError if some network has weights only in a format that can run code when it is read."""
    paths = [PurePosixPath(file) for file in files]
    folders = components() if PurePosixPath("model_index.json") in paths else {""}
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
