"""The training loop: every step's chance comes from its number, so a run resumes bit for bit.

A `Stage` is a model and a loss. `train` runs it for some minutes, keeps an exponential moving average of
the weights, checkpoints to `work/<name>.pt`, and leaves the averaged weights in the model. Run again with
more minutes, it goes on from where it was; with none, it only loads what there is.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn

matplotlib.use("agg")

SAVE_EVERY = 120.0
"""Seconds between checkpoints."""
LOG_EVERY = 25
"""Steps per point of the loss curve, and per line of the log."""


class Chance:
    """Everything random in one training step, drawn from the run's seed, the stage and the step's number."""

    def __init__(self, *key: int | str) -> None:
        words = [int.from_bytes(str(part).encode(), "little") for part in key]
        self.numpy = np.random.default_rng(words)
        self.torch = torch.Generator().manual_seed(int(self.numpy.integers(2**62)))

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal float32 noise of the given shape, on the CPU."""
        return torch.randn(shape, generator=self.torch)

    def uniform(self, *shape: int) -> Tensor:
        """Return uniform float32 numbers in [0, 1), on the CPU."""
        return torch.rand(shape, generator=self.torch)


@dataclass(frozen=True)
class Training:
    """How a recipe is run.

    work: folder of checkpoints and curves. minutes: of all stages and runs together; 0 only loads what there is.
    steps: the most a stage takes. bfloat16: faster on GPUs, and on CPUs with matrix units (AMX).
    start: folder of an exported model to go on from, where its networks are of the shapes wanted.
    """

    work: Path
    minutes: float
    seed: int = 0
    device: str = "cpu"
    steps: int | None = None
    bfloat16: bool = False
    start: Path | None = None

    def precision(self) -> torch.autocast:
        """Return the context that networks are run in."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bfloat16)

    def begin(self, part: str, network: nn.Module) -> bool:
        """Give a network the exported weights to start from; return whether there are any that fit."""
        if self.start is None:
            return False
        files = list((self.start / part).glob("*.safetensors"))
        weights = load_file(files[0]) if files else {}
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        fits = {name: tensor.shape for name, tensor in weights.items()} == shapes
        if fits:
            network.load_state_dict(weights)
        print(f"{part} starts from {files[0] if fits else 'nothing'}", flush=True)
        return fits


@dataclass
class Stage:
    """One stage of training: which parameters of `model` take part is said by their `requires_grad`."""

    name: str
    model: nn.Module
    loss: Callable[[Chance], Tensor]
    learning_rate: float
    warmup: int = 100
    plateau: int = 1500
    """Step from which on the learning rate falls as the inverse square root of the step."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; it depends on the step alone, so any run can go on."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) / max(1.0, step / self.plateau) ** 0.5


def train(stage: Stage, training: Training, fraction: float) -> int:
    """Train until the stage has used its share of the time in all its runs; return the steps done."""
    path, minutes, steps = training.work / f"{stage.name}.pt", training.minutes * fraction, training.steps
    parameters = [p for p in stage.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = EMAModel(parameters, decay=0.999, foreach=True)
    step, seconds, curve = 0, 0.0, []
    if path.exists():
        saved = torch.load(path, map_location=parameters[0].device, weights_only=True)
        stage.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average.load_state_dict(saved["average"])
        step, seconds, curve = saved["step"], saved["seconds"], saved["curve"]

    def save() -> None:
        state = {
            "model": stage.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
            "step": step,
            "seconds": seconds,
            "curve": curve,
        }
        training.work.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        draw_curve(curve, stage.name, path.with_suffix(".png"))

    before, saved_at, recent = step, seconds, []
    stage.model.train()
    while seconds < minutes * 60 and (steps is None or step < steps):
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = stage.rate(step)
        with training.precision():
            loss = stage.loss(Chance(training.seed, stage.name, step))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(parameters)
        step += 1
        recent.append(loss.item())
        seconds += time.monotonic() - started
        if step % LOG_EVERY == 0:
            curve.append((step, sum(recent) / len(recent)))
            recent.clear()
            print(f"{stage.name} step {step} loss {curve[-1][1]:.4f} minutes {seconds / 60:.1f}", flush=True)
        if seconds - saved_at > SAVE_EVERY:
            save()
            saved_at = seconds
    if step > before:
        save()
    average.copy_to(parameters)
    stage.model.eval()
    return step


def draw_curve(curve: list[tuple[int, float]], title: str, path: Path) -> None:
    """Save the loss curve, (step, loss) pairs, as a picture."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    if curve:
        axes.plot(*zip(*curve, strict=True))
    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
