"""Previews look like the video they are of, and asking for them changes nothing about it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import untrained
from diffusers import AutoencoderKL
from PIL import Image

from streamline import InputError, Job, Plan, Rehash, Step, load, preview, run
from streamline.families.layers.latent_colours import PUBLISHED, WIDTHS, _linear, _pictures, fit
from streamline.families.networks import network_of

EXAMPLE = Path(__file__).parents[1] / "assets" / "examples" / "star.png"


@pytest.fixture(scope="module", params=["tiny-animatediff", "tiny-svd"])
def bundled(request):
    """A bundled model, a job for it and its image."""
    pipe = load(request.param, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    if request.param == "tiny-animatediff":
        return pipe, Job.for_model(pipe, prompt="a green star growing on a white background", seed=2), None
    return pipe, Job.for_model(pipe, seed=2), Image.open(EXAMPLE)


def correlation(pictures, frames):
    first = np.stack([np.asarray(picture.resize(frames[0].size, Image.Resampling.BOX)) for picture in pictures])
    second = np.stack([np.asarray(frame) for frame in frames])
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_previews_come_to_look_like_the_video(bundled):
    pipe, job, image = bundled
    seen = {}

    def on_event(event):
        if isinstance(event, Step) and event.index in (0, job.num_inference_steps // 2, job.num_inference_steps - 1):
            seen[event.index] = preview(pipe, event.latents)

    result = run(pipe, job, Plan.uniform(2), image, on_event)
    alike = [correlation(pictures, result.frames) for pictures in seen.values()]
    assert all(len(pictures) == job.num_frames for pictures in seen.values())
    assert alike[0] < alike[-1] and min(alike[1:]) > 0.7


@pytest.mark.parametrize("make", [untrained.animatediff, untrained.svd])
def test_asking_for_previews_changes_nothing(make):
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    text = {"prompt": "a cat"} if make is untrained.animatediff else {}
    job = Job.for_model(pipe, num_frames=4, num_inference_steps=4, **text)
    image = None if text else Image.radial_gradient("L").convert("RGB")
    plan = Plan(rehash=Rehash((0, 3), network_of(pipe.unet).lower(pipe.unet).cache_point("last-layer")))
    before = vars(pipe.scheduler).keys() - {"timesteps"}
    quiet, events = run(pipe, job, plan, image), []

    def look(event):
        events.append(event)
        if isinstance(event, Step):
            preview(pipe, event.latents)

    watched = run(pipe, job, plan, image, look)
    assert watched.frames == quiet.frames
    assert sum(isinstance(event, Step) for event in events) == len(events) - 3 == job.num_inference_steps
    assert "step" not in vars(pipe.scheduler) and before <= vars(pipe.scheduler).keys()
    assert not pipe.vae.decoder._forward_pre_hooks


def test_factors_are_fitted_once_and_are_the_best_there_are(bundled):
    vae = bundled[0].vae
    with torch.no_grad():
        fitted = _linear(vae)
        latents = torch.cat([vae.encode(picture[None]).latent_dist.mean for picture in _pictures()])
    assert _linear(vae) is fitted
    np.testing.assert_allclose(fit(vae).factors, fitted.factors, rtol=1e-3, atol=1e-4)
    latents = latents * vae.config.scaling_factor
    colours = torch.nn.functional.adaptive_avg_pool2d(_pictures(), latents.shape[-2:])
    least = (fitted(latents) - colours).square().mean()
    assert least < colours.var()
    for change in 0.01 * torch.randn(5, *torch.tensor(fitted.factors).shape):
        worse = torch.einsum("fchw,cr->frhw", latents, change) + fitted(latents)
        assert (worse - colours).square().mean() > least


def test_stable_diffusion_has_published_factors():
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=WIDTHS,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    assert _linear(vae) is PUBLISHED[0.18215]
    grey = _linear(vae)(torch.zeros(2, 4, 5, 6))
    assert grey.shape == (2, 3, 5, 6) and not grey.any()


def test_what_are_no_latents_is_refused():
    pipe = untrained.svd()
    for shape in [(1, 4, 2, 8, 8), (4, 8, 8), (1, 2, 8, 8)]:
        with pytest.raises(InputError, match="no latents"):
            preview(pipe, torch.zeros(shape))
