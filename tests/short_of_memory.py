"""A process of its own whose weights go to a folder, argv[1]; prints what memory that took, and ends when told to.

The system counts what is mapped from files apart (RssFile) from what only memory holds (RssAnon), and RLIMIT_DATA is a
limit on the second kind that it enforces.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from functools import partial
from pathlib import Path

import torch
from diffusers import UNetMotionModel

from streamline import Plan
from streamline.families.base import Shape
from streamline.families.networks import network_of
from streamline.families.running import run_network
from streamline.hardware.process_memory import give_back
from streamline.program.weights import weights_of
from streamline.weights.mapped import keep_on_disk
from streamline.weights.offloading import GroupOffload

MIB = 2**20
PAGEOUT = 21  # of madvise(2): write these pages back and let go of them


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def limit_data(more: int | None) -> None:
    """Let this process have so many bytes more of memory that no file stands for."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if more is None else status("VmData") + more, most))


def let_go(weights: list[torch.Tensor]) -> bool:
    """Have the system do at once what it does where memory is short; False where it cannot."""
    madvise = ctypes.CDLL(None).madvise
    places = [tensor.untyped_storage() for tensor in weights]
    asked = [madvise(ctypes.c_void_p(at.data_ptr()), ctypes.c_size_t(at.nbytes()), PAGEOUT) for at in places]
    return not any(asked)


def main(folder: Path) -> None:
    network = UNetMotionModel(
        block_out_channels=(192, 448),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        layers_per_block=1,
        cross_attention_dim=32,
        num_attention_heads=4,
        motion_max_seq_length=8,
    ).requires_grad_(False)
    example, weights = network_of(network).example(network, Shape(1, 2, 8, 8)), weights_of([network])
    called = partial(run_network, network, Plan.uniform(2).denoiser, False, **example)
    expected, again = network(**example).sample, called().sample  # what any first call keeps is kept by now
    give_back()
    found = {"weights": sum(tensor.nbytes for tensor in weights), "before": status("RssAnon")}

    limit_data(16 * MIB)
    found["is_kept"] = keep_on_disk(weights, folder)
    found |= {"after": status("RssAnon"), "files": status("RssFile"), "left": [path.name for path in folder.iterdir()]}

    found["can_let_go"] = let_go(weights)
    found["files_let_go"] = status("RssFile")

    offloaded, most = GroupOffload(torch.device("cpu")), [0, 0]

    def watch() -> None:
        most[:] = max(most[0], status("RssAnon")), max(most[1], offloaded.bytes_on_device)

    limit_data(found["weights"] // 2)
    result = called(weights=offloaded, before_slice=watch).sample
    limit_data(None)
    found |= {"most": most[0], "groups": most[1], "is_same": torch.equal(result, again)}
    found["error"] = ((result - expected).abs().max() / expected.abs().max()).item()
    print(json.dumps(found), flush=True)
    sys.stdin.read()


with torch.no_grad():
    main(Path(sys.argv[1]))
