"""What the recipes' command lines share."""

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn


def arguments(description: str, name: str, minutes: float) -> argparse.Namespace:
    """Parse a recipe's command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(f"assets/models/tiny-{name}"), help="model folder")
    parser.add_argument("--work", type=Path, default=Path(f"training/{name}"), help="checkpoints and curves")
    parser.add_argument(
        "--minutes",
        type=float,
        default=minutes,
        help="training time in all runs together; 0 exports what there is",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def channels_last(model: nn.Module) -> nn.Module:
    """Lay out the weights of 2-D convolutions for speed; 3-D ones stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model


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
