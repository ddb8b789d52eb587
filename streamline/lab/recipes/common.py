"""What the recipes' command lines share."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from streamline.lab.recipes.loop import Training


def arguments(description: str, name: str, minutes: float, out: Path | None = None) -> tuple[Training, Path]:
    """Parse a recipe's command line; return how to train, and the folder that the model goes to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=out or Path(f"assets/models/tiny-{name}"), help="where it goes")
    parser.add_argument("--work", type=Path, default=Path(f"training/{name}"), help="checkpoints and curves")
    parser.add_argument(
        "--minutes",
        type=float,
        default=minutes,
        help="training time in all runs together; 0 exports what there is",
    )
    parser.add_argument("--start", type=Path, help="an exported model to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="faster on GPUs and on CPUs with matrix units")
    options = vars(parser.parse_args())
    return Training(**{key: value for key, value in options.items() if key != "out"}), options["out"]


def channels_last(model: nn.Module) -> nn.Module:
    """Lay out the weights of 2-D convolutions for speed; 3-D ones stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model


@contextmanager
def plain_attention(network: nn.Module) -> Iterator[None]:
    """Train a network with attention written out: the fused kernel's gradient is slow in bfloat16 on a CPU."""
    network.set_attn_processor(AttnProcessor())
    try:
        yield
    finally:
        network.set_attn_processor(AttnProcessor2_0())


def export(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Save a pipeline in half precision, readable by all, and bring it back to single precision."""
    pipeline.to(dtype=torch.float16)
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.to(memory_format=torch.contiguous_format)
    pipeline.save_pretrained(folder)
    pipeline.to(dtype=torch.float32)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
