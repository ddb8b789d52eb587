"""PSNR and SSIM keep the identities that define them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streamline import InputError
from streamline.output.metrics import SIGMA, WINDOW, psnr, ssim


def noise(seed, height=16, width=20, frames=2):
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in pixels]


def noisy(frames, strength, seed=0):
    generator = np.random.default_rng(seed)
    pixels = [np.asarray(frame) + generator.normal(0, strength, np.asarray(frame).shape) for frame in frames]
    return [Image.fromarray(frame.round().clip(0, 255).astype(np.uint8)) for frame in pixels]


@given(st.integers(0, 2**32 - 1), st.integers(WINDOW, 24), st.integers(WINDOW, 24))
@settings(max_examples=20)
def test_the_same_video_is_the_same(seed, height, width):
    frames = noise(seed, height, width)
    assert psnr(frames, frames) == (math.inf, math.inf)
    assert ssim(frames, frames) == pytest.approx((1, 1), abs=1e-12)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_neither_minds_which_comes_first(seed):
    first, second = noise(seed), noise(seed + 1)
    assert psnr(first, second) == psnr(second, first)
    assert ssim(first, second) == pytest.approx(ssim(second, first), abs=1e-12)
    assert all(-1 <= value < 0.5 for value in ssim(first, second))


def test_more_noise_is_less_alike():
    frames = [Image.radial_gradient("L").convert("RGB").resize((64, 48))]
    changed = [noisy(frames, strength) for strength in (1, 4, 16, 64)]
    for metric in (psnr, ssim):
        values = [metric(frames, other)[0] for other in changed]
        assert values == sorted(values, reverse=True) and len(set(values)) == 4


@given(st.integers(0, 200), st.integers(1, 55))
def test_a_constant_difference_has_closed_forms(level, step):
    """Flat frames have no structure, so SSIM is its luminance alone."""
    first, second = ([Image.new("RGB", (16, 16), (value,) * 3)] for value in (level, level + step))
    assert psnr(first, second)[0] == pytest.approx(20 * math.log10(255 / step))
    a, b, c = level, level + step, (0.01 * 255) ** 2
    assert ssim(first, second)[0] == pytest.approx((2 * a * b + c) / (a * a + b * b + c))


def test_ssim_is_what_its_formula_says_window_by_window():
    first, second = noise(3, 13, 12, 1), noise(4, 13, 12, 1)
    a, b = (np.asarray(frames[0], float) for frames in (first, second))
    distance = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * SIGMA**2))
    weights = (weights / weights.sum())[..., None]
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for y in range(13 - WINDOW + 1):
        for x in range(12 - WINDOW + 1):
            p, q = (pixels[y : y + WINDOW, x : x + WINDOW] for pixels in (a, b))
            mean_p, mean_q = (weights * p).sum((0, 1)), (weights * q).sum((0, 1))
            var_p, var_q = (weights * (p - mean_p) ** 2).sum((0, 1)), (weights * (q - mean_q) ** 2).sum((0, 1))
            both = (weights * (p - mean_p) * (q - mean_q)).sum((0, 1))
            values.append(
                (2 * mean_p * mean_q + c1) * (2 * both + c2) / (mean_p**2 + mean_q**2 + c1) / (var_p + var_q + c2)
            )
    assert ssim(first, second)[0] == pytest.approx(np.mean(values), abs=1e-9)


def test_what_cannot_be_compared_is_refused():
    for metric in (psnr, ssim):
        for other in (noise(0, frames=3), noise(0, height=17), []):
            with pytest.raises(InputError):
                metric(noise(0), other)
        with pytest.raises(InputError):
            metric([], [])
    with pytest.raises(InputError, match="smaller"):
        ssim(noise(0, 8, 8), noise(1, 8, 8))
