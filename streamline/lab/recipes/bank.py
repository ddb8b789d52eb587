"""A bank of encoded clips, so that the denoiser's training need not draw and encode."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from streamline.lab.recipes.loop import Chance

Encode = Callable[[int, Chance], dict[str, Tensor]]


def load_or_build(path: Path, count: int, encode: Encode, seed: int = 0) -> dict[str, Tensor]:
    """Return `count` encoded clips, each entry stacked along its first axis; clip i is scene number i.

    `encode` turns a scene's number into named tensors. The bank is kept in the file `path`.
    """
    if path.exists():
        return torch.load(path, weights_only=True)
    clips = []
    with torch.no_grad():
        for number in range(count):
            clips.append(encode(number, Chance(seed, "bank", number)))
            if (number + 1) % 500 == 0:
                print(f"bank {number + 1}/{count}", flush=True)
    bank = {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(bank, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
    return bank
