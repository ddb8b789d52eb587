"""Errors a caller can act on; each carries one sentence meant for people."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_QUOTE = 80  # characters of what was given, in a sentence about it
NO_ROOM = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def quoted(value: object) -> str:
    """Return what was given, to be named in a sentence: as Python writes it, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


class StreamlineError(Exception):
    """Base of every error this package raises on purpose."""


class PlanError(StreamlineError, ValueError):
    """A plan, or a part of one, does not make sense."""


class UnsupportedError(StreamlineError):
    """A network or an option that this package cannot run exactly, and so refuses."""


class ModelError(StreamlineError):
    """A model cannot be found, read or used as asked."""


class InputError(StreamlineError, ValueError):
    """A job's input (prompt, image, size, ...) cannot be used."""


class DeviceError(StreamlineError, ValueError):
    """A device is not here, or cannot be used as asked."""


class OutOfMemory(StreamlineError, MemoryError):
    """This machine has less memory than was needed."""


class Cancelled(StreamlineError):
    """A run was asked to stop, and did."""


def forget_frames(error: BaseException, handled: BaseException | None = None) -> None:
    """Let go of the calls that failed, with all the tensors they held, however long the error is kept.

    handled: what `sys.exception()` was when these calls began; its frames are none of theirs.

    Clearing the frames is not enough before Python 3.13: a frame keeps what `locals()` returned in it, as diffusers'
    pipelines ask for, until the frame itself goes. So the error forgets its frames, and those it comes from theirs.
    """
    behind: BaseException | None = error
    while behind is not None and behind is not handled:
        traceback.clear_frames(behind.__traceback__)  # where a cycle holds a frame too
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__


@contextmanager
def telling_out_of_memory() -> Iterator[None]:
    """Raise OutOfMemory in place of what torch and Python raise, and free what the calls that failed still hold."""
    handled = sys.exception()
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        forget_frames(error, handled)
        raise OutOfMemory("Memory is not enough; slice more finely or make fewer frames.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch or Python say that memory ran out, and nobody has told it in words yet.

    Only torch's own allocator on a GPU has an error class for it; the CPU's, and CUDA and its libraries when they find
    no room for themselves, say it in the message.
    """
    import torch  # here, so that errors are plain data

    known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in NO_ROOM)
    return known and not isinstance(error, OutOfMemory)
