"""Say what a trained model is worth: reconstruction, agreement with what was asked for, change between steps.

python -m streamline.lab.recipes.measure assets/models/tiny-animatediff --sheet sheet.png

With --publish the figures and the picture go into the model's own folder and onto its card.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from streamline.lab.recipes import autoencoder, judge, model_card, reuse, world
from streamline.lab.recipes.reading import read
from streamline.lab.recipes.sampling import SLOW, Question, caption, is_from_image, questions, sample, save_sheet

BARS = {
    "judge_on_real_clips.shape": 0.98,
    "judge_on_real_clips.colour": 0.98,
    "judge_on_real_clips.background": 0.98,
    "judge_on_real_clips.motion": 0.98,
}
TEXT_BARS = {"reconstruction_db": 30, "shape": 0.80, "colour": 0.95, "background": 0.95, "motion": 0.85}
IMAGE_BARS = {
    "reconstruction_db": 28,
    "shape": 0.90,
    "colour": 0.90,
    "first_frame_db": 24,
    "still_when_asked": 0.90,
    "moving_when_asked": 0.90,
}
"""What a bundled model should reach at least."""


def main() -> None:
    """Measure the model that the command line names, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, help="default: 3 for text, 2 for images")
    parser.add_argument("--reuse-clips", type=int, default=8, help="of those, how many to reuse features on")
    parser.add_argument("--sheet", type=Path, help="also save the first clips as a picture (PNG)")
    parser.add_argument("--rows", type=int, default=12, help="clips on that picture")
    parser.add_argument("--json", type=Path, help="also save the figures")
    parser.add_argument("--publish", action="store_true", help="save both with the model, and write its card's table")
    args = parser.parse_args()
    if args.publish:
        args.sheet, args.json = args.model / "sheet.png", args.model / "measured.json"

    pipeline = DiffusionPipeline.from_pretrained(args.model, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    asked = questions(pipeline, args.clips)
    started = time.perf_counter()
    videos = [sample(pipeline, question, args.steps, args.guidance) for question in tqdm(asked, unit="clip")]
    seconds = (time.perf_counter() - started) / args.clips

    figures = {"model": args.model.name, "clips": args.clips, "steps": args.steps}
    figures |= {"seconds_per_clip": seconds, "threads": torch.get_num_threads()}
    figures |= quality(pipeline, asked, videos)
    figures |= {"reuse": reuse.figures(pipeline, asked[: args.reuse_clips], args.steps)}
    print(report(figures, BARS | (IMAGE_BARS if is_from_image(pipeline) else TEXT_BARS)))
    if args.sheet:
        rows = min(args.rows, args.clips)
        save_sheet([caption(pipeline, q.scene) for q in asked[:rows]], videos[:rows], args.sheet)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if args.publish:
        model_card.update(args.model)


def quality(pipeline: DiffusionPipeline, asked: list[Question], videos: list[np.ndarray]) -> dict:
    """Return the figures of generated videos, beside those of the real clips they should be like."""
    referee = judge.load()
    real, made = (referee.features_of(clips) for clips in ([q.clip for q in asked], videos))
    labels = [judge.labelled(question.scene) for question in asked]
    others = [q.clip for q in questions(pipeline, 2 * len(asked))[len(asked) :]]
    readings = referee.read(made)
    figures = {
        "reconstruction_db": reconstruction(pipeline, [question.clip for question in asked[:64]]),
        "judge_on_real_clips": judge.agreement(referee.read(real), labels),
        **judge.agreement(readings, labels),
        "by_pixel_rules": judge.agreement([read(video) for video in videos], labels),
        "frechet_distance": judge.frechet_distance(real, made),
        "frechet_distance_of_other_real_clips": judge.frechet_distance(real, referee.features_of(others)),
        "colour_drift": drift(videos, asked),
        "colour_drift_of_real_clips": drift([question.clip for question in asked], asked),
    }
    if is_from_image(pipeline):
        slow = np.array([world.motion_bucket(question.scene) <= SLOW[1] for question in asked])
        still = np.array([reading.motion == "still" for reading in readings])
        figures["still_when_asked"] = float(still[slow].mean())
        figures["moving_when_asked"] = float(1 - still[~slow].mean())
        frames = [(video[0] - question.clip[0]) for video, question in zip(videos, asked, strict=True)]
        figures["first_frame_db"] = float(np.mean([-10 * np.log10(np.square(f).mean()) for f in frames]))
    return figures


def reconstruction(pipeline: DiffusionPipeline, clips: list[np.ndarray]) -> float:
    """Return the autoencoder's mean peak signal-to-noise ratio on clips, in decibels."""
    ratios = []
    with torch.no_grad():
        for clip in clips:
            images = autoencoder.to_tensor(clip)
            latents = pipeline.vae.encode(images).latent_dist.mode()
            rebuilt = pipeline.vae.decode(latents, **({"num_frames": len(images)} if is_from_image(pipeline) else {}))
            ratios.append(autoencoder.psnr(rebuilt.sample, images))
    return float(np.mean(ratios))


def drift(videos: list[np.ndarray], asked: list[Question]) -> float:
    """Return the mean change of the shape's colour from first to last frame, a distance in RGB of [0, 1]."""
    changes = []
    for video, question in zip(videos, asked, strict=True):
        first, last = (_subject_colour(video[i], question.scene) for i in (0, -1))
        changes.append(np.linalg.norm(last - first))
    return float(np.mean(changes))


def report(figures: dict, bars: dict[str, float]) -> str:
    """Return the figures a line each, with what they should reach where that is said."""
    lines = []
    for name, value in _flat(figures).items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        bar = f"  at least {bars[name]}: {'yes' if value >= bars[name] else 'NO'}" if name in bars else ""
        lines.append(f"{name.replace('_', ' '):45} {text:>16}{bar}")
    return "\n".join(lines)


def _flat(figures: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in figures.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _subject_colour(frame: np.ndarray, scene: world.Scene) -> np.ndarray:
    """Return the median colour of the pixels nearer to the scene's colour than to its background's."""
    colour, ground = (np.array(c) for c in (world.COLOURS[scene.colour], world.BACKGROUNDS[scene.background]))
    near = np.linalg.norm(frame - colour, axis=-1) < np.linalg.norm(frame - ground, axis=-1)
    return np.median(frame[near], axis=0) if near.any() else ground


if __name__ == "__main__":
    main()
