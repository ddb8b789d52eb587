"""A budget is obeyed: a network runs within its peak, and fails at once with a byte less."""

import random
from dataclasses import replace

import pytest
import torch
from networks import KINDS
from torch import nn

from streamline import DeviceError, LiveTensors, OutOfMemory, Plan, detect
from streamline.errors import is_out_of_memory, telling_out_of_memory
from streamline.families.running import run_network
from streamline.hardware.cap import capped
from streamline.hardware.cards import emulate

CPU = detect("cpu")
CARD, _ = emulate("8GiB")


@pytest.fixture(params=[CPU, CARD], ids=["cpu", "emulated"])
def device(request):
    return request.param


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_the_peak_is_enough_and_a_byte_less_is_not(kind, seed):
    case, slicing = KINDS[kind](seed), Plan.uniform(2).denoiser

    def run():
        with torch.no_grad():
            return case.read(run_network(case.network, slicing, True, **case.arguments))

    with LiveTensors([case.network]) as memory:
        expected = run()
    peak = memory.weights_bytes + memory.peak_bytes
    with capped(CPU, peak, [case.network]):
        assert torch.equal(run(), expected)
    fewer = random.Random(seed).choice([1, memory.peak_bytes // 2, memory.peak_bytes - 1])
    with LiveTensors([case.network]) as left:
        with pytest.raises(OutOfMemory), telling_out_of_memory(), capped(CPU, peak - fewer, [case.network]):
            run()
        assert left.live_bytes == 0  # all of it is freed
        more = torch.zeros(peak, dtype=torch.uint8)  # and the cap is gone
        assert left.live_bytes == more.nbytes


def test_it_fails_at_the_call_that_exceeds(device):
    kilo = 1024 * 4
    with capped(device, 3 * kilo + device.context_bytes):
        kept = [torch.zeros(1024) for _ in range(3)]
        kept.pop()
        kept.append(kept[0].view(32, 32))  # a view takes nothing
        kept.append(torch.ones(1024))
        with pytest.raises(torch.OutOfMemoryError, match=r"12\.0 KiB"):
            torch.zeros(1)
        kept.clear()
        torch.zeros(3 * 1024)  # there is room again


@pytest.mark.parametrize(
    ("words", "is_so"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be reported later", True),  # pinned memory; a new kernel
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_libraries_without_room_are_out_of_memory_too(words, is_so):
    assert is_out_of_memory(RuntimeError(words)) is is_so


def test_weights_count_from_the_start(device):
    layer = nn.Linear(32, 32, bias=False)
    room = layer.weight.nbytes + device.context_bytes
    with pytest.raises(torch.OutOfMemoryError), capped(device, room - 1, [layer]):
        pytest.fail("the weights alone are too much")
    with capped(device, room, [layer]), pytest.raises(torch.OutOfMemoryError):
        layer(torch.zeros(1, 32))


def test_an_error_of_another_kind_takes_the_cap_along(device):
    with pytest.raises(ZeroDivisionError), capped(device, device.context_bytes + 1):
        _ = 1 / 0
    assert torch.zeros(1024).sum() == 0


def test_a_budget_that_the_context_exceeds_is_one_sentence():
    with pytest.raises(DeviceError, match="no room beside the context"), capped(CARD, CARD.context_bytes):
        pytest.fail("there is no room")
    with capped(replace(CPU, name="any"), 1):
        pass


@pytest.mark.gpu
def test_a_gpu_is_capped_and_freed_again():
    gpu = detect("cuda")
    before = torch.cuda.get_per_process_memory_fraction(gpu.index)
    with capped(gpu, gpu.context_bytes + 2**28):
        torch.zeros(2**26, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(2**29, dtype=torch.uint8, device="cuda")
    assert torch.cuda.get_per_process_memory_fraction(gpu.index) == before
    torch.zeros(2**29, dtype=torch.uint8, device="cuda")
