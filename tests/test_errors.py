"""An error that somebody keeps keeps no tensors: it holds no frame of the calls that failed."""

import ast
import gc
import subprocess
import sys
import weakref

import pytest
import torch

from streamline import OutOfMemory
from streamline.errors import forget_frames, telling_out_of_memory


@pytest.fixture(autouse=True)
def no_collector():
    """What only cycles hold stays, so that every test can fail."""
    gc.disable()
    yield
    gc.enable()


def failing(alive, error, is_looked_at):
    """Raise an error while a tensor is alive, in a call that looks at its locals as diffusers' pipelines do."""
    tensor = torch.zeros(3)
    alive.append(weakref.ref(tensor))
    if is_looked_at:
        assert "tensor" in locals()  # before Python 3.13 the frame keeps what this returned
    raise error


def failing_twice(alive, error):
    try:
        failing(alive, KeyError("first"), True)
    except KeyError:
        failing(alive, error, True)


@pytest.mark.parametrize("is_looked_at", [False, True])
def test_frames_are_forgotten(is_looked_at):
    alive = []
    try:
        failing(alive, ValueError(), is_looked_at)
    except ValueError as error:
        kept = error
        assert alive[0]() is not None
        forget_frames(error)
    assert alive[0]() is None and kept.__traceback__ is None


@pytest.mark.parametrize("chained", ["cause", "context"])
def test_so_are_those_of_the_errors_behind_it(chained):
    alive = []
    try:
        if chained == "context":
            failing_twice(alive, ValueError())
        try:
            failing_twice(alive, ValueError())
        except ValueError as first:
            raise RuntimeError from first
    except (ValueError, RuntimeError) as error:
        kept = error
        forget_frames(error)
    assert len(alive) == 2 and all(tensor() is None for tensor in alive) and kept is not None


def test_those_of_an_error_that_was_handled_meanwhile_are_not():
    """A run may be a caller's second try, in the very block that handles why the first one failed."""
    alive = []
    try:
        try:
            failing(alive, ValueError(), False)
        except ValueError as own:
            first = own
            failing_within(alive)
    except OutOfMemory as error:
        assert error.__cause__.__context__ is first
    assert alive[0]() is not None and first.__traceback__.tb_next is not None and alive[1]() is None


def failing_within(alive):
    with telling_out_of_memory():
        failing(alive, torch.OutOfMemoryError("second"), False)


def test_memory_that_runs_out_is_told_and_freed():
    alive = []
    with pytest.raises(OutOfMemory) as kept, telling_out_of_memory():
        failing(alive, torch.OutOfMemoryError("first"), False)
    assert isinstance(kept.value.__cause__, torch.OutOfMemoryError)
    assert alive[0]() is None


def test_errors_are_told_without_torch():
    """They are data, for whoever has no torch at hand."""
    source = "import sys, importlib.util as u\ns = u.spec_from_file_location('errors', sys.argv[1])\n"
    source += "m = u.module_from_spec(s)\ns.loader.exec_module(m)\nprint('torch' in sys.modules)"
    path = sys.modules["streamline.errors"].__file__
    assert ast.literal_eval(subprocess.check_output([sys.executable, "-c", source, path], text=True)) is False
