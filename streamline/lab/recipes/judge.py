"""A small classifier of the world's clips, which judges what a generated video shows.

It names shape, colour, background and motion, and its last features give a Fréchet distance between sets of clips.

    python -m streamline.lab.recipes.judge --out assets/judge --minutes 12
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from streamline.lab.recipes import autoencoder, world
from streamline.lab.recipes.common import arguments
from streamline.lab.recipes.loop import Chance, Stage, Training, train
from streamline.lab.recipes.reading import Reading

LABELS = {
    "shape": tuple(world.SHAPES),
    "colour": tuple(world.COLOURS),
    "background": tuple(world.BACKGROUNDS),
    "motion": tuple(world.MOTIONS),
}
FEATURES = 64
VECTOR = 128
CLIPS, FRAMES = 32, 96
"""Clips, or single frames, in a batch."""
FRACTIONS = {"frames": 0.6, "clips": 0.4}
"""Each stage's share of the training time."""
FOLDER = Path(__file__).parents[3] / "assets" / "judge"
CLEAR_PACE = 0.4
"""From this pace on, motion at the usual frame rate is plain to see; slower scenes are learned only as still ones."""


class FrameReader(nn.Module):
    """A convolutional network that turns each frame into a vector: what there is, wherever it is, and where it is."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for wide, wider, stride in ((12, 48, 2), (48, 96, 2), (96, 96, 1), (96, 96, 1)):
            layers += [nn.Conv2d(wide, wider, 3, stride, padding=1), nn.GroupNorm(8, wider), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.where = nn.Conv2d(96, 8, 1)
        self.vector = nn.Sequential(nn.Linear(96 + 8 * (world.SIZE // 8) ** 2, VECTOR), nn.SiLU())

    def forward(self, frames: Tensor) -> Tensor:
        """Return vectors (n, VECTOR) of frames (n, 3, SIZE, SIZE) in [-1, 1]."""
        seen = self.trunk(frames)
        return self.vector(torch.cat([seen.amax(dim=(2, 3)), self.where(seen).flatten(1)], dim=1))


class Judge(nn.Module):
    """Every frame on its own down to a vector, then the vectors along time."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = FrameReader()
        self.time = nn.Sequential(
            nn.Conv1d(VECTOR, VECTOR, 3, padding=1), nn.SiLU(), nn.Conv1d(VECTOR, VECTOR, 3, padding=1), nn.SiLU()
        )
        self.features = nn.Sequential(nn.Linear(VECTOR * world.FRAMES, VECTOR), nn.SiLU(), nn.Linear(VECTOR, FEATURES))
        self.heads = heads(FEATURES)

    def forward(self, videos: Tensor) -> Tensor:
        """Return features (n, FEATURES) of videos (n, FRAMES, 3, SIZE, SIZE) in [-1, 1]."""
        vectors = self.frames(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])
        return self.features(self.time(vectors.transpose(1, 2)).flatten(1))

    @torch.no_grad()
    def features_of(self, videos: list[np.ndarray]) -> np.ndarray:
        """Return features (n, FEATURES) of videos (frames, size, size, 3) in [0, 1]."""
        batches = torch.stack([autoencoder.to_tensor(video).float() for video in videos]).split(CLIPS)
        return torch.cat([self(batch) for batch in batches]).numpy()

    @torch.no_grad()
    def read(self, features: np.ndarray) -> list[Reading]:
        """Return what clips of these features show."""
        activated = F.silu(torch.from_numpy(features))
        named = {
            name: [LABELS[name][index] for index in head(activated).argmax(dim=1).tolist()]
            for name, head in self.heads.items()
        }
        return [Reading(**dict(zip(named, words, strict=True))) for words in zip(*named.values(), strict=True)]


def load(folder: Path = FOLDER) -> Judge:
    """Return the trained judge."""
    judge = Judge()
    judge.load_state_dict(load_file(folder / "judge.safetensors"))
    return judge.float().eval()


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Fréchet distance between two sets of features (n, FEATURES), as if both were Gaussian."""
    (mean_a, cov_a), (mean_b, cov_b) = ((f.mean(axis=0), np.cov(f, rowvar=False)) for f in (first, second))
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    product = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * product)


def labelled(scene: world.Scene) -> Reading:
    """Return what there is to see in a scene: at the slowest paces, nothing moves."""
    motion = "still" if scene.pace <= world.STILL_PACE else scene.motion
    return Reading(scene.shape, scene.colour, scene.background, motion)


def clear_scene(rng: np.random.Generator) -> world.Scene:
    """Draw a scene whose motion can be told: made for text, or for images and at a usual frame rate."""
    number = int(rng.integers(2**31))
    if rng.random() < 0.5:
        return world.scene(number)
    scene = world.image_scene(number)
    if scene.pace <= world.STILL_PACE:
        return scene
    return replace(scene, pace=float(rng.uniform(CLEAR_PACE, 1)), fps=world.USUAL_FPS)


def heads(width: int) -> nn.ModuleDict:
    """Return a linear classifier for every label."""
    return nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in LABELS.items()})


def run(training: Training) -> Judge:
    """Train the judge, its frame reader first and by itself; return it with averaged weights."""
    torch.manual_seed(training.seed)
    judge = Judge().to(training.device)
    reader = nn.ModuleDict({"frames": judge.frames, "heads": heads(VECTOR)}).to(training.device)

    def draw(chance: Chance, count: int, times: int) -> tuple[Tensor, dict[str, Tensor]]:
        scenes = [clear_scene(chance.numpy) for _ in range(count)]
        moments = np.linspace(0, 1, world.FRAMES)
        first = chance.numpy.integers(world.FRAMES - times + 1)
        videos = torch.stack([autoencoder.to_tensor(world.draw(it, moments[first : first + times])) for it in scenes])
        labels = {
            name: torch.tensor([words.index(getattr(labelled(it), name)) for it in scenes], device=training.device)
            for name, words in LABELS.items()
        }
        return _worn(videos, chance).to(training.device), labels

    def loss(features: Tensor, judges: nn.ModuleDict, labels: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
        return torch.stack([F.cross_entropy(judges[name](features).float(), labels[name]) for name in names]).mean()

    def frame_loss(chance: Chance) -> Tensor:
        frames, labels = draw(chance, FRAMES, 1)
        return loss(judge.frames(frames[:, 0]), reader["heads"], labels, ("shape", "colour", "background"))

    def clip_loss(chance: Chance) -> Tensor:
        videos, labels = draw(chance, CLIPS, world.FRAMES)
        return loss(F.silu(judge(videos)), judge.heads, labels, tuple(LABELS))

    fraction = 0.0 if (training.work / "clips.pt").exists() else FRACTIONS["frames"]
    train(Stage("frames", reader, frame_loss, 2e-3), training, fraction)
    train(Stage("clips", judge, clip_loss, 1e-3), training, FRACTIONS["clips"])
    return judge.cpu()


def agreement(readings: list[Reading], labels: list[Reading]) -> dict[str, float]:
    """Return for each label the share of clips in which it is read as it should be."""
    return {
        name: float(
            np.mean([getattr(r, name) == getattr(wanted, name) for r, wanted in zip(readings, labels, strict=True)])
        )
        for name in LABELS
    }


def accuracy(judge: Judge, scenes: list[world.Scene]) -> dict[str, float]:
    """Return for each label the share of real clips that the judge reads as they are."""
    features = judge.features_of([world.draw(scene) for scene in scenes])
    return agreement(judge.read(features), [labelled(scene) for scene in scenes])


def main() -> None:
    """Train and save, as the command line says; print the accuracy on clips never trained on."""
    training, folder = arguments("Train the judge of the world's clips.", "judge", minutes=12, out=FOLDER)
    judge = run(training)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in judge.state_dict().items()}, folder / "judge.safetensors")
    rng = np.random.default_rng([training.seed, 0x7E57])
    print(accuracy(load(folder), [clear_scene(rng) for _ in range(1000)]))


def _worn(videos: Tensor, chance: Chance) -> Tensor:
    """Blur and grain some of the clips, so that a generated one is judged by what it shows and not by its finish."""
    n, frames, _, height, width = videos.shape
    blurred = F.avg_pool2d(videos.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False)
    fraction = 0.8 * chance.uniform(n, 1, 1, 1, 1)
    videos = videos + fraction * (blurred.unflatten(0, (n, frames)) - videos)
    return videos + 0.1 * chance.uniform(n, 1, 1, 1, 1) * chance.normal(n, frames, 3, height, width)


if __name__ == "__main__":
    main()
