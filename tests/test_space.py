"""The repository as a Hugging Face Space: what its builder reads, and a GPU lent to a process of its own."""

import os
import re
import subprocess
import sys

import pytest
import torch
from browsing import ROOT
from huggingface_hub import metadata_load
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import streamline

# https://huggingface.co/docs/hub/spaces-zerogpu: a Space whose requirements exclude all of these is not built.
ZERO_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
ZERO_PYTHON = ("3.10", "3.12")
SPACE = '''
"""What the `spaces` package does for this app: calls in a process of their own, which share nothing."""
import multiprocessing

import types

import torch

if multiprocessing.current_process().name == "MainProcess":  # where a GPU only seems to be there
    def touched(*_):
        raise RuntimeError("CUDA must not be initialized in the main process on Spaces with Stateless GPU environment.")

    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda _: types.SimpleNamespace(
        name="NVIDIA H200 MIG 3g.71gb", major=9, minor=0, total_memory=71 * 2**30, multi_processor_count=60
    )
    torch.cuda.mem_get_info = lambda *_: (70 * 2**30, 71 * 2**30)
    torch.cuda.synchronize = torch.cuda._lazy_init = touched

def GPU(duration):
    def decorate(make):
        def call(*arguments):
            assert duration(*arguments) > 0
            context = multiprocessing.get_context("spawn")
            events = context.Queue()
            process = context.Process(target=_run, args=(events, make.__module__, make.__qualname__, arguments))
            process.start()
            while (event := events.get()) is not None:
                yield event
            process.join()
        return call
    return decorate

def _run(events, module, name, arguments):
    import importlib
    for event in getattr(importlib.import_module(module), name)(*arguments):
        events.put(event)
    events.put(None)
'''
USE_SPACE = """
import app
from gradio_client import Client

if __name__ == "__main__":
    app.demo.launch(prevent_thread_lock=True, quiet=True)
    client = Client(app.demo.local_url, verbose=False)
    video, receipt = client.predict(
        model="tiny-animatediff", prompt="a red circle", image=None, budget="", quality="exact", emulate="",
        steps=2, frames=0, width=0, height=0, seed=1, api_name="/generate",
    )
    plan = client.predict(model="svd", budget="12GiB", api_name="/plan")
    print("planned", plan["job"]["width"])
    print("made", receipt["model"], receipt["job"]["num_inference_steps"])
"""


@pytest.fixture(scope="module")
def card():
    return metadata_load(ROOT / "README.md")


@pytest.fixture(scope="module")
def requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {one.name: one for one in found}


def test_its_builder_finds_what_it_needs(card, requirements):
    assert card["sdk"] == "gradio" and requirements["gradio"].specifier == SpecifierSet(f"=={card['sdk_version']}")
    assert card["python_version"] in ZERO_PYTHON
    wanted = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text())[1]
    assert SpecifierSet(wanted).contains(card["python_version"] + ".0")
    assert "demo = ui.build(" in (ROOT / card["app_file"]).read_text()
    assert len(card["short_description"]) <= 60
    sources = {source for model in streamline.MODELS for source in (model.source, *dict(model.parts).values())}
    assert set(card["models"]) == {source for source in sources if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source))}


def test_torch_is_one_that_zero_gpu_has_and_everything_else_is_pinned(requirements):
    """The newest one allowed is what is installed elsewhere, and tested here."""
    torch_wanted = requirements.pop("torch").specifier
    assert any(torch_wanted.contains(version) for version in ZERO_TORCH)
    installed = torch.__version__.partition("+")[0]
    assert f"<={installed}" in str(torch_wanted) or installed in ZERO_TORCH
    assert "spaces" not in requirements, "a Space brings its own"
    for one in requirements.values():
        assert [specifier.operator for specifier in one.specifier] == ["=="], one


@pytest.mark.slow
def test_a_space_shares_nothing_with_its_gpu_worker(tmp_path):
    (tmp_path / "spaces.py").write_text(SPACE)
    script = tmp_path / "use.py"
    script.write_text(USE_SPACE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "SPACE_ID": "someone/streamlined",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "planned 1024" in done.stdout and "made tiny-animatediff 2" in done.stdout, done.stderr[-3000:]
