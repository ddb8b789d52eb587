"""Weights in files that are mapped into memory: the system lets go of their pages where memory is short, and reads
them again when they are used.

Every storage has a file of its own, which loses its name as soon as it is mapped, before anything is written to it: the
system removes it when nobody holds the weights any more, however the process ends. A process that is killed while it
makes one, and every one on Windows, leaves a file that a later process clears away. Weights that a model was loaded
with may lie in its own files already, as safetensors maps what needs no other type; these are left there.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor

from ..cache import cache_folder
from ..files import clear_temporary_files, temporary_path
from ..hardware.process_memory import give_back

log = logging.getLogger(__name__)

LEFT_FREE = 2**30  # bytes of a disk that are not taken: for videos, and for whatever else the machine does
IN_MEMORY = {"tmpfs", "ramfs"}  # file systems that take as much memory as they hold
MAPS = Path("/proc/self/maps")
NO_FILES = ("/dev/", "/memfd:", "/SYSV")  # what proc(5) lists under a name though it lies in memory


def is_mapped(tensor: Tensor) -> bool:
    """Return whether a tensor lies in a file that `keep_on_disk` made."""
    return tensor.untyped_storage().filename is not None


def bytes_in_memory(weights: Iterable[Tensor]) -> int:
    """Return bytes of weights that take the host's memory for good:
    neither on another device nor in a file of any kind."""
    files = _mapped_files()
    here = (tensor for tensor in weights if tensor.device.type == "cpu" and not is_mapped(tensor))
    return sum(tensor.nbytes for tensor in here if not _is_in(tensor, files))


def keep_on_disk(weights: Iterable[Tensor], folder: Path | None = None) -> bool:
    """Let weights lie in files from now on, wherever they are now, and free what they took.

    The tensors stay the same, and so do their values, strides, and what they share; only their `data` is another. It is
    exchanged storage by storage, so that no more than one is there twice. It stays so until someone moves or casts
    them: what lies in a file already, or is empty, is left alone. What is changed in place is changed in its file.

    folder: where the files are made; by default that of the cache, for a system's folder for temporary files is often
        kept in memory.
    Returns False where there is no room, or nothing can be written: the others stay where they are, and it is logged.
    """
    folder = folder or cache_folder()
    files = _mapped_files()
    sharing: dict[int, list[Tensor]] = {}
    for tensor in weights:
        # Those of other classes (quantized, fake) may have no memory of their own.
        if type(tensor.data) is Tensor and tensor.device.type != "meta" and tensor.untyped_storage().nbytes():
            sharing.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    moving = [tensors for tensors in sharing.values() if not is_mapped(tensors[0]) and not _is_in(tensors[0], files)]
    if not moving:
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_temporary_files(folder)
        _check_room(folder, sum(tensors[0].untyped_storage().nbytes() for tensors in moving))
        while moving:
            _move(moving.pop(), folder)
    except (OSError, RuntimeError) as error:  # the second: torch's, where a file cannot be mapped
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        log.warning("host memory is short, but weights stay there, as %s cannot take them: %s", folder, reason)
        return False
    finally:
        give_back()
    return True


@torch.no_grad()
def _move(sharing: list[Tensor], folder: Path) -> None:
    """Put one storage into a file of its own. sharing: all of the weights in it."""
    old = sharing[0].untyped_storage()
    new = _new_file(folder, old.nbytes())
    _bytes_of(new).copy_(_bytes_of(old))
    for tensor in sharing:
        place = (tensor.storage_offset(), tensor.shape, tensor.stride())
        tensor.data = torch.empty(0, dtype=tensor.dtype).set_(new, *place)


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _new_file(folder: Path, size: int) -> torch.UntypedStorage:
    """A storage of `size` bytes in a file that has lost its name. Raises OSError or RuntimeError."""
    temporary = temporary_path(folder / "weights")
    try:
        with temporary.open("xb") as file:
            if hasattr(os, "posix_fallocate"):  # else a disk that is full would end the process as it is written to
                os.posix_fallocate(file.fileno(), 0, size)
        return torch.UntypedStorage.from_file(str(temporary), shared=True, nbytes=size)
    finally:
        with suppress(OSError):  # Windows keeps what is mapped; a later process clears it away
            temporary.unlink(missing_ok=True)


def _check_room(folder: Path, size: int) -> None:
    """Raise OSError where a folder has no room for so many bytes beside LEFT_FREE, or takes them from memory itself."""
    folder = folder.resolve()
    kinds = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    kind = next((kinds[place] for place in (folder, *folder.parents) if place in kinds), None)
    if kind in IN_MEMORY:
        raise OSError(errno.ENODEV, f"it is kept in memory ({kind})")
    if shutil.disk_usage(folder).free < size + LEFT_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _mapped_files() -> list[range]:
    """Addresses at which a file of any kind is mapped into this process, as proc(5) has it; none outside of Linux."""
    try:
        lines = MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:  # "7f00-7f80 rw-p 00000000 08:01 1234   /a/file"
        addresses, *_, name = [*line.split(maxsplit=5), ""][:6]
        if name.startswith("/") and not name.startswith(NO_FILES):
            start, _, end = addresses.partition("-")
            found.append(range(int(start, 16), int(end, 16)))
    return found


def _is_in(tensor: Tensor, files: list[range]) -> bool:
    address = tensor.untyped_storage().data_ptr()
    return tensor.device.type == "cpu" and any(address in addresses for addresses in files)
