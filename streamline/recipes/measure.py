"""Say what a trained model is worth: reconstruction, agreement with what was asked for, time.

python -m streamline.recipes.measure assets/models/tiny-animatediff --clips 64
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, DiffusionPipeline, StableVideoDiffusionPipeline
from PIL import Image

from streamline.recipes import autoencoder, world
from streamline.recipes.reading import Reading, read

HELD_OUT = 10_000_000
"""First scene used for measuring; training uses small numbers, and random ones by pixel only."""


def main() -> None:
    """Measure the model that the command line names, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, help="default: 3 for text, 2 for images")
    parser.add_argument("--sheet", type=Path, help="also save the clips as a picture, one a row")
    args = parser.parse_args()

    pipeline = DiffusionPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    scenes = [world.scene(HELD_OUT + number) for number in range(args.clips)]
    truth = [world.draw(scene) for scene in scenes]
    print(f"autoencoder {reconstruction(pipeline, truth):.1f} dB")

    started = time.perf_counter()
    videos = [
        sample(pipeline, scene, clip, seed, args.steps, args.guidance)
        for seed, (scene, clip) in enumerate(zip(scenes, truth, strict=True))
    ]
    seconds = (time.perf_counter() - started) / args.clips
    print(f"sampling {seconds:.1f} s a clip of {args.steps} steps, {torch.get_num_threads()} threads")
    for name, share in agreement([read(video) for video in videos], scenes).items():
        print(f"{name} right in {share:.0%} of {args.clips}")
    if isinstance(pipeline, StableVideoDiffusionPipeline):
        error = np.square(np.stack(videos) - np.stack(truth)).mean(axis=(2, 3, 4))
        print("dB to the true clip, frame by frame:", np.round(-10 * np.log10(error).mean(axis=0), 1).tolist())
    if args.sheet:
        save_sheet(videos, args.sheet)


def sample(
    pipeline: DiffusionPipeline,
    scene: world.Scene,
    clip: np.ndarray,
    seed: int,
    steps: int = 25,
    guidance: float | None = None,
) -> np.ndarray:
    """Sample a video (frames, size, size, 3) in [0, 1] for a scene: by its prompt, or its first frame."""
    options = {
        "height": world.SIZE,
        "width": world.SIZE,
        "num_frames": world.FRAMES,
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "np",
    }
    match pipeline:
        case AnimateDiffPipeline():
            scale = 3.0 if guidance is None else guidance
            return pipeline(world.describe(scene), guidance_scale=scale, **options).frames[0]
        case StableVideoDiffusionPipeline():
            scale = 2.0 if guidance is None else guidance
            bucket = round(world.USUAL_MOTION_BUCKET * scene.pace)
            return pipeline(to_image(clip[0]), max_guidance_scale=scale, motion_bucket_id=bucket, **options).frames[0]
    raise TypeError(f"no way to sample a {type(pipeline).__name__}")


def reconstruction(pipeline: DiffusionPipeline, clips: list[np.ndarray]) -> float:
    """Return the autoencoder's mean peak signal-to-noise ratio on clips, in decibels."""
    ratios = []
    with torch.no_grad():
        for clip in clips:
            images = autoencoder.to_tensor(clip)
            latents = pipeline.vae.encode(images).latent_dist.mode()
            temporal = isinstance(pipeline, StableVideoDiffusionPipeline)
            rebuilt = pipeline.vae.decode(latents, **({"num_frames": len(images)} if temporal else {})).sample
            ratios.append(autoencoder.psnr(rebuilt, images))
    return float(np.mean(ratios))


def agreement(readings: list[Reading], scenes: list[world.Scene]) -> dict[str, float]:
    """Return for each label the share of clips in which it is read as the scene has it."""
    return {
        name: float(np.mean([getattr(r, name) == getattr(s, name) for r, s in zip(readings, scenes, strict=True)]))
        for name in ("shape", "colour", "background", "motion")
    }


def to_image(frame: np.ndarray) -> Image.Image:
    """Turn a frame (h, w, 3) in [0, 1] into a picture."""
    return Image.fromarray(np.round(frame * 255).astype(np.uint8))


def save_sheet(videos: list[np.ndarray], path: Path) -> None:
    """Save videos as one picture, a video a row, its frames side by side."""
    rows = [np.concatenate(list(video), axis=1) for video in videos]
    to_image(np.concatenate(rows, axis=0)).save(path)


if __name__ == "__main__":
    main()
