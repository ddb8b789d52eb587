"""How alike two videos are: their largest difference, and frame by frame PSNR, and SSIM as Wang et al. define it.

Source: Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment: From Error Visibility to Structural Similarity
(IEEE Transactions on Image Processing, 2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from ..errors import InputError

PEAK = 255.0
WINDOW = 11  # pixels a side
SIGMA = 1.5  # pixels
STABILISER = ((0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2)  # C1 and C2, with K1 = 0.01 and K2 = 0.03


def largest_difference(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> int:
    """Return the largest difference of any channel of any pixel, 0 to 255. Raises InputError as `psnr` does."""
    return max(int(np.abs(a - b).max()) for a, b in _pairs(first, second))


def psnr(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> tuple[float, ...]:
    """Peak signal-to-noise ratio of every frame in decibels, infinite where two are the same.

    Raises InputError for videos of different lengths or sizes.
    """
    errors = [float(np.mean((a - b) ** 2)) for a, b in _pairs(first, second)]
    return tuple(10 * math.log10(PEAK**2 / error) if error else math.inf for error in errors)


def ssim(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> tuple[float, ...]:
    """Structural similarity of every frame, at most 1, which it is where two are the same.

    The mean over all windows of 11 x 11 pixels that lie within the frame, weighted by a Gaussian, and over the three
    colours. Raises InputError for videos of different lengths or sizes, and for frames smaller than a window.
    """
    return tuple(_similarity(a, b) for a, b in _pairs(first, second))


def _pairs(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames as (height, width, 3) in float64."""
    if not first or len(first) != len(second):
        raise InputError(f"Videos of {len(first)} and {len(second)} frames cannot be compared frame by frame.")
    sizes = {frame.size for frame in (*first, *second)}
    if len(sizes) > 1:
        raise InputError("Videos are compared pixel by pixel, so their frames must be of one size.")
    for a, b in zip(first, second, strict=True):
        yield np.asarray(a.convert("RGB"), np.float64), np.asarray(b.convert("RGB"), np.float64)


def _similarity(a: np.ndarray, b: np.ndarray) -> float:
    if min(a.shape[:2]) < WINDOW:
        raise InputError(f"SSIM looks at windows of {WINDOW}x{WINDOW} pixels, and these frames are smaller.")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = STABILISER
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return float(np.mean(luminance * structure))


def _blur(values: np.ndarray) -> np.ndarray:
    """Gaussian means over every window that lies within (height, width, 3)."""
    distance = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(distance**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        values = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=axis) @ weights
    return values
