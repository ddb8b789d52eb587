"""The figures of a bundled model on its card: the table in its README is written from measured.json."""

import json
from pathlib import Path

from streamline.lab.recipes import judge

BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"


def update(folder: Path) -> None:
    """Write the table of measured.json into the README of a model's folder, between its two marks."""
    card = folder / "README.md"
    before, _, rest = card.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    figures = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    card.write_text(before + BEGIN + table(figures) + END + after, encoding="utf-8")


def table(figures: dict) -> str:
    """Return the figures that `measure` gives as a Markdown table."""
    reuse = figures["reuse"]
    every, ratios = zip(*reuse["reuse_psnr_db"].items(), strict=True)
    rows = {"clips": str(figures["clips"]), "autoencoder": f"{figures['reconstruction_db']:.1f} dB"}
    for name, words in judge.LABELS.items():
        rows[f"{name} right"] = f"{figures[name]:.1%} (chance {1 / len(words):.0%})"
    if "first_frame_db" in figures:
        rows |= {
            "still at motion buckets 0 to 20": f"{figures['still_when_asked']:.1%}",
            "moving at motion buckets from 200": f"{figures['moving_when_asked']:.1%}",
            "first frame against the picture": f"{figures['first_frame_db']:.1f} dB",
        }
    rows |= {
        "Fréchet distance to the real clips": f"{figures['frechet_distance']:.0f}",
        "the same of as many other real clips": f"{figures['frechet_distance_of_other_real_clips']:.0f}",
        "change of the shape's colour, first to last frame (RGB of 0 to 1)": f"{figures['colour_drift']:.3f}",
        "the same of the real clips": f"{figures['colour_drift_of_real_clips']:.3f}",
        f"time, CPU threads: {figures['threads']}": f"{figures['seconds_per_clip']:.1f} s a clip",
        "change of the last temporal features from step to step": f"{reuse['change_trained']:.1%}",
        "the same with random weights": f"{reuse['change_untrained']:.1%}",
        f"the original's video against one that reuses them, every {', '.join(every)} steps": ", ".join(
            f"{ratio:.1f}" for ratio in ratios
        )
        + " dB",
    }
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines) + "\n"
