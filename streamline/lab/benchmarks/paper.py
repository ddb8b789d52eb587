"""The figures the paper reports (arXiv 2411.01171, Tables 1 and 2): A100, float16, 25 steps, guidance on."""

from __future__ import annotations

from dataclasses import dataclass

CARD = "A100 80GB"
FRAMES = {"svd": 14, "svd-xt": 25, "animatediff": 16}
SIZES = ((512, 512), (576, 1024))
FULL_STEPS = 13  # that Step Rehash and DeepCache compute of 25


@dataclass(frozen=True)
class Reported:
    """gigabytes, seconds: by size, as in SIZES. frechet_distance: FVD on UCF101. clip_score: CLIP score."""

    gigabytes: tuple[float, float]
    seconds: tuple[float, float]
    frechet_distance: float
    clip_score: float


TABLE_1 = {
    ("svd", "original"): Reported((20.91, 39.49), (10.23, 23.29), 307.7, 29.25),
    ("svd", "naive slicing"): Reported((8.12, 10.72), (31.85, 65.56), 1127.5, 26.32),
    ("svd", "streamlined"): Reported((13.67, 23.42), (7.36, 14.24), 340.6, 28.98),
    ("svd-xt", "original"): Reported((31.97, 61.17), (17.05, 40.77), 387.9, 28.18),
    ("svd-xt", "naive slicing"): Reported((8.12, 10.72), (59.86, 121.82), 2180.0, 24.42),
    ("svd-xt", "streamlined"): Reported((19.37, 36.32), (12.10, 25.47), 424.7, 27.94),
    ("animatediff", "original"): Reported((21.83, 41.71), (9.65, 24.38), 758.7, 28.89),
    ("animatediff", "naive slicing"): Reported((7.22, 9.92), (19.98, 38.69), 2403.9, 26.63),
    ("animatediff", "streamlined"): Reported((7.51, 11.07), (7.08, 15.15), 784.5, 28.71),
}
