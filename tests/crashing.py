"""Processes that die, or whose disk is full, at a chosen moment: forked, so that nothing is imported anew."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Collection

import torch

KILLED, DONE, FAILED = -signal.SIGKILL, 0, 1


def killed_at(line: int, files: Collection[str], work: Callable[[], object]) -> int:
    """How a process ended that is killed at the line-th line it executes of some files (1 is the first one)."""

    def child() -> None:
        executed = 0

        def trace(frame, event, argument):
            nonlocal executed
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                executed += 1
                if executed == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        work()

    return _status(child)


def with_largest_file(size: int, work: Callable[[], object]) -> int:
    """How a process ended that cannot write files of more bytes, as if the disk were full by then."""

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        work()

    return _status(child)


def _status(work: Callable[[], object]) -> int:
    process = os.fork()
    if process == 0:
        status = FAILED
        try:
            torch.set_num_threads(1)  # the threads that its parent computed with are not there, but waited for
            work()
            status = DONE
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # nothing of the parent's is flushed or ended twice
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
