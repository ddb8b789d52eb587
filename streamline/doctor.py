"""What is wrong with this machine or this installation, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import imageio_ffmpeg
import psutil
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HTTPError, RepositoryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file

from .cache import cache_folder
from .errors import ModelError
from .families.base import Model
from .families.naming import models
from .hardware.cgroups import Limit, read_limits
from .hardware.detection import why_no_cuda
from .hardware.nvml import Gpu, read_gpus
from .models.loading import HUB_TIMEOUT
from .sizes import format_bytes
from .store.finding import BUNDLED, find

Level = Literal["ok", "warning", "problem"]

GIB = 2**30
PINS = Path(__file__).parents[1] / "requirements.txt"
MODEL_BYTES = 10 * GIB  # free, so that a published model can be fetched
VIDEO_BYTES = GIB  # free, so that videos can be written
LEAST_MEMORY = 4 * GIB  # for the bundled models, PyTorch and a browser
ENCODERS = ("libx264", "libvpx-vp9")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. what: how it is. remedy: what to do about it, "" where all is well."""

    level: Level
    what: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def examine(output: str | os.PathLike = ".", *, offline: bool = False) -> tuple[Finding, ...]:
    """Look at everything that is known to go wrong; takes a few seconds.

    output: the folder that videos are written to. offline: do not ask the Hugging Face hub for anything.
    """
    gpus = read_gpus()
    usable = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    usable = usable or ("Apple GPU" if torch.backends.mps.is_available() else "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    folders = ((Path(constants.HF_HUB_CACHE), MODEL_BYTES), (cache_folder(), VIDEO_BYTES), (Path(output), VIDEO_BYTES))
    return (
        look_at_gpu(usable, gpus, torch.version.cuda, visible, has_nvidia_card()),
        *look_at_versions(pins()),
        *look_at_memory(read_limits(), psutil.virtual_memory().total),
        *(look_at_disk(folder, needed) for folder, needed in folders),
        look_at_ffmpeg(),
        *(look_at_bundled(model) for model in models() if Path(model.source).parent == BUNDLED),
        *look_at_hub([model for model in models() if Path(model.source).parent != BUNDLED], offline=offline),
    )


def look_at_gpu(
    usable: str, gpus: Sequence[Gpu], built_for: str | None, visible: str | None, has_card: bool
) -> Finding:
    """Whether PyTorch can use a GPU, and if not, why.

    usable: the name of the GPU that it can use, or "". gpus: with a driver. built_for, visible: as for `why_no_cuda`.
    has_card: whether an NVIDIA card is plugged in, with a driver or without.
    """
    if usable:
        return Finding("ok", f"PyTorch can use the {usable}.")
    if gpus:
        remedy = "Remove .venv and run ./launch.sh again, which installs a PyTorch for this GPU."
        if built_for is not None:
            remedy = "Unset CUDA_VISIBLE_DEVICES." if visible is not None else "Update the NVIDIA driver."
        return Finding("problem", why_no_cuda(built_for, gpus, visible), remedy)
    if has_card:
        return Finding(
            "problem",
            "There is an NVIDIA card here without a working driver.",
            "Install the NVIDIA driver; in a container, start it with --gpus all.",
        )
    return Finding(
        "warning",
        "There is no GPU here that PyTorch can use.",
        "The bundled models need none; larger ones take very long without. Plan for a card with --emulate.",
    )


def has_nvidia_card(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether the system (Linux) sees a display or compute card of NVIDIA's."""
    for device in devices.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except (OSError, UnicodeDecodeError):
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def pins() -> dict[str, str]:
    """Package -> the version tested, from requirements.txt, or from what was installed with it.

    Of a range that is the newest one, which is what ./launch.sh installs.
    """
    try:
        lines: Iterable[str] = PINS.read_text(encoding="utf-8").splitlines()
    except OSError:
        try:
            lines = importlib.metadata.requires("streamline") or ()
        except importlib.metadata.PackageNotFoundError:
            lines = ()
    matches = (re.match(r"([\w.-]+)(?:[^;]*,)?[=<]=([^\s;,]+)", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def look_at_versions(pinned: dict[str, str]) -> Iterator[Finding]:
    """Packages that are missing, or of another version than was tested."""
    remedy = "Run ./launch.sh, which installs the pinned versions."
    if not pinned:
        yield Finding("warning", "Which versions of packages this was tested with is not known.", remedy)
    others = {}
    for package, wanted in pinned.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("problem", f"{package} is not installed.", remedy)
            continue
        if found.partition("+")[0] != wanted:  # what follows the plus is how it was built
            others[package] = f"{package} {found} instead of {wanted}"
    if others:
        listed = ", ".join(others.values())
        yield Finding("warning", f"Other versions than were tested are installed: {listed}.", remedy)
    elif pinned:
        yield Finding("ok", f"The packages are of the {len(pinned)} pinned versions.")


def look_at_memory(limits: Sequence[Limit], total_bytes: int) -> Iterator[Finding]:
    """The tightest limit on main memory that a container or the system sets, if it is below what the machine has."""
    tightest = min(limits, key=lambda limit: limit.limit_bytes, default=None)
    if tightest is None or tightest.limit_bytes >= total_bytes:
        return
    what = f"A control group allows {format_bytes(tightest.limit_bytes)} of main memory ({tightest.source})."
    if tightest.limit_bytes < LEAST_MEMORY:
        remedy = f"Give the container at least {format_bytes(LEAST_MEMORY)}, with --memory or its like."
        yield Finding("warning", what, remedy)
    else:
        yield Finding("ok", what)


def look_at_disk(folder: Path, needed_bytes: int) -> Finding:
    """Whether a folder, there or still to be made, can be written to and has room."""
    place = Path(folder).expanduser().absolute()
    existing = next(parent for parent in (place, *place.parents) if parent.is_dir())
    if not os.access(existing, os.W_OK):
        return Finding("problem", f"{place} cannot be written to.", "Change its permissions, or choose another folder.")
    free = shutil.disk_usage(existing).free
    what = f"{format_bytes(free)} are free for {place}."
    if free >= needed_bytes:
        return Finding("ok", what)
    level: Level = "problem" if free < needed_bytes // 10 else "warning"
    remedy = f"Make room, or choose a folder on another disk: {format_bytes(needed_bytes)} are wanted."
    return Finding(level, what, remedy)


def look_at_ffmpeg() -> Finding:
    """Whether videos can be encoded."""
    remedy = "Run ./launch.sh, which installs imageio-ffmpeg, or unset IMAGEIO_FFMPEG_EXE."
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        command = [program, "-hide_banner", "-encoders"]
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30).stdout
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "there is none"
        return Finding("problem", f"ffmpeg cannot be run: {reason}.", remedy)
    missing = [encoder for encoder in ENCODERS if encoder not in listed.split()]
    if missing:
        return Finding("problem", f"The ffmpeg {program} has no {' and no '.join(missing)}.", remedy)
    return Finding("ok", "ffmpeg encodes H.264 and VP9.")


def look_at_bundled(model: Model) -> Finding:
    """Whether every file of a bundled model is there and whole, with weights that are numbers."""
    folder = Path(model.source)
    remedy = f"Get {folder.name} anew: git checkout -- {folder} (with git lfs, where files are pointers)."
    for file in sorted(folder.rglob("*.*")):
        if not _is_sound(file):
            return Finding("problem", f"{file.relative_to(folder)} of {model.name} is damaged.", remedy)
    if find(model.source) is None:
        return Finding("problem", f"{model.name} is not complete.", remedy)
    return Finding("ok", f"{model.name} is complete.")


def _is_sound(file: Path) -> bool:
    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".safetensors":
            return all(torch.isfinite(tensor).all() for tensor in load_file(file).values())
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def look_at_hub(models: Sequence[Model], *, offline: bool) -> Iterator[Finding]:
    """Which published models are here, and whether the hub gives access to the others."""
    absent = [model for model in models if not _is_here(model)]
    if here := [model.name for model in models if model not in absent]:
        yield Finding("ok", f"On this machine: {', '.join(here)}.")
    if not absent:
        return
    names = ", ".join(model.name for model in absent)
    if offline or constants.HF_HUB_OFFLINE:
        yield Finding("warning", f"Offline, and not on this machine: {names}.", "Go online once to fetch them.")
        return
    for model in absent:
        try:
            for source in (model.source, *dict(model.parts).values()):
                _look_up(source)
        except GatedRepoError:
            yield Finding(
                "warning",
                f"{model.name} wants its licence accepted.",
                f"Accept it on https://huggingface.co/{source}, then run `hf auth login`.",
            )
        except RepositoryNotFoundError:
            yield Finding("warning", f"The hub shows no model {source}.", "Run `hf auth login` if it is a private one.")
        except (HTTPError, OSError):
            yield Finding(
                "warning",
                f"The Hugging Face hub cannot be reached, and not on this machine: {names}.",
                "Go online once to fetch them; in the meantime the bundled models work.",
            )
            return
        else:
            yield Finding("ok", f"{model.name} can be fetched from the hub.")


def _is_here(model: Model) -> bool:
    try:
        return model.is_here
    except ModelError:  # a copy that is damaged
        return False


def _look_up(source: str) -> None:
    """Ask the hub for a file that every pipeline, or every adapter, has."""
    for name in ("model_index.json", "config.json"):
        try:
            get_hf_file_metadata(hf_hub_url(source, name), timeout=HUB_TIMEOUT)
            return
        except EntryNotFoundError:
            continue
