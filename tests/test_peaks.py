"""What a plan holds is counted in a fresh process, and the process's own peak is told beside it."""

import sys
from functools import partial

import pytest
import torch
import untrained
from diffusers import AnimateDiffPipeline

from streamline import Job, Plan, Slicing
from streamline.cli import main
from streamline.hardware.process_memory import peak_bytes, reset_peak
from streamline.lab.peaks import peaks


def open_pipeline(folder):
    """In the fresh process too."""
    pipe = AnimateDiffPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    job = Job.for_model(pipe, prompt="a cat", height=64, width=64, num_frames=4, num_inference_steps=9)
    return pipe, job, None


def test_plans_hold_what_is_predicted(tmp_path, record_property):
    untrained.animatediff().save_pretrained(tmp_path)
    plans = {"a plan": Plan(Slicing(2, 2), Slicing(2, 2), "sequential")}
    (found,) = peaks(partial(open_pipeline, tmp_path), plans)
    record_property("error: predicted to counted peak of a fresh process", abs(found.ratio - 1))
    assert (found.name, found.plan) == ("a plan", plans["a plan"])
    assert 0.99 <= found.ratio <= 1.03
    if sys.platform == "linux":
        assert found.process_bytes >= max(found.started_bytes, found.live_bytes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_peak_of_a_process_starts_again():
    tensor = torch.ones(2**26)
    high = peak_bytes()
    del tensor
    low = reset_peak()
    if low is None:
        pytest.skip("this container forbids it")
    assert high - low > 2**27


def test_only_the_cpu_is_checked(capsys):
    assert main(["peaks", "--prompt", "a cat", "--device", "cuda"]) == 2
    assert "on the CPU" in capsys.readouterr().err
