"""The recipes: a world that is what its labels say, training that resumes exactly, models that load."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, DiffusionPipeline, StableVideoDiffusionPipeline
from torch import nn

from streamline.lab.recipes import animatediff, judge, loop, model_card, reading, reuse, sampling, svd, text, world
from streamline.lab.recipes.loop import Training

MODELS = Path(__file__).parents[1] / "assets" / "models"
TINY = {
    "animatediff": (
        animatediff.run,
        animatediff.Size(
            vae=(8, 8, 8, 8), unet=(8, 8), text=8, groups=4, heads=2, bank=4, pictures=2, images=2, clips=2
        ),
        ("autoencoder", "images", "video"),
    ),
    "svd": (
        svd.run,
        svd.Size(vae=(32, 32, 32, 32), unet=(32, 32), embedding=32, heads=2, bank=2, crop=16, clips=1),
        ("autoencoder", "denoiser", "decoder"),
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Keep these small tensors off a pool of threads, which costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scenes_of(motion: str, count: int = 12) -> list[world.Scene]:
    numbered = (world.scene(number) for number in range(10_000))
    return [scene for scene in numbered if scene.motion == motion][:count]


def test_the_same_number_draws_the_same_clip():
    first, second, other = (world.draw(world.scene(number)) for number in (5, 5, 6))
    assert first.shape == (world.FRAMES, world.SIZE, world.SIZE, 3)
    assert first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def subject(frame: np.ndarray, scene: world.Scene) -> np.ndarray:
    """Return where a frame shows the scene's shape: nearer its colour than its background's."""
    colour, ground = (np.array(c) for c in (world.COLOURS[scene.colour], world.BACKGROUNDS[scene.background]))
    chroma = frame - frame.mean(axis=-1, keepdims=True)
    towards, away = colour - colour.mean(), ground - ground.mean()
    return np.linalg.norm(chroma - towards, axis=-1) < np.linalg.norm(chroma - away, axis=-1)


@pytest.mark.parametrize("motion", world.HEADINGS)
def test_a_moving_shape_moves_where_it_says(motion: str):
    heading = np.array(world.HEADINGS[motion])
    for scene in scenes_of(motion):
        video = world.draw(scene)
        start, end = (reading.centre(subject(video[i], scene)) for i in (0, -1))
        assert np.dot(end - start, heading) > 0.25
        assert abs(np.dot(end - start, heading[::-1])) < 0.08


@pytest.mark.parametrize(("motion", "least", "most"), [("growing", 1.8, 12), ("shrinking", 0.05, 0.55)])
def test_a_shape_grows_or_shrinks_as_it_says(motion: str, least: float, most: float):
    for scene in scenes_of(motion):
        video = world.draw(scene)
        assert least < subject(video[-1], scene).sum() / subject(video[0], scene).sum() < most


def test_a_still_shape_stays_and_a_spinning_one_does_not():
    for scene in scenes_of("still"):
        assert np.ptp(world.draw(scene), axis=0).max() == 0
    for scene in scenes_of("spinning"):
        assert np.ptp(world.draw(scene), axis=0).max() > 0.1


def test_a_bouncing_shape_comes_back():
    for scene in scenes_of("bouncing"):
        heights = [reading.centre(subject(frame, scene))[1] for frame in world.draw(scene)]
        assert max(heights) - min(heights) > 0.2
        turns = np.diff(np.sign(np.diff(heights)))
        assert np.abs(turns).max() == 2


@pytest.mark.parametrize("number", range(20))
def test_pace_and_frame_rate_say_how_far_an_image_moves(number: int):
    scene = replace(world.image_scene(number), fps=world.USUAL_FPS)

    def change(**given: float) -> float:
        video = world.draw(replace(scene, **given))
        return float(np.abs(np.diff(video, axis=0)).mean())

    assert change(pace=0.0) == 0
    assert change(pace=world.STILL_PACE) < change(pace=0.4) < change(pace=0.9)
    if scene.motion != "bouncing":  # whose steps do not grow evenly
        assert change(pace=0.8, fps=14) < change(pace=0.8)
    assert world.motion_bucket(replace(scene, pace=1.0)) == 255
    assert world.motion_bucket(replace(scene, pace=world.STILL_PACE)) == 20


def test_an_image_tells_its_motion_but_not_whether_it_moves():
    scenes = [world.image_scene(number) for number in range(300)]
    assert {scene.motion for scene in scenes} == set(world.MOTIONS) - {"still"}
    still = np.mean([scene.pace <= world.STILL_PACE for scene in scenes])
    assert 0.1 < still < 0.3
    for scene in scenes:
        moved = replace(scene, pace=1.0)
        np.testing.assert_array_equal(world.draw(scene, np.zeros(1)), world.draw(moved, np.zeros(1)))


def test_clips_are_read_as_they_are_labelled():
    scenes = [world.scene(number) for number in range(60)]
    labels = [judge.labelled(scene) for scene in scenes]
    right = judge.agreement([reading.read(world.draw(scene)) for scene in scenes], labels)
    assert right["colour"] == right["background"] == 1
    assert right["shape"] > 0.95
    assert right["motion"] > 0.95


def test_the_judge_reads_real_clips():
    scenes = [world.scene(sampling.HELD_OUT + number) for number in range(120)]
    right = judge.accuracy(judge.load(), scenes)
    assert min(right.values()) > 0.95, right


def test_the_frechet_distance_tells_sets_apart():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(400, 6))
    other = rng.normal(size=(400, 6))
    assert judge.frechet_distance(base, base) == pytest.approx(0, abs=1e-9)
    assert judge.frechet_distance(base, other) < 0.2
    assert judge.frechet_distance(base, base + 2) == pytest.approx(6 * 2**2)
    assert judge.frechet_distance(base, 3 * base) == pytest.approx(4 * np.trace(np.cov(base, rowvar=False)), rel=0.05)


def test_prompts_name_their_scene_and_have_a_token_for_every_word():
    tokenizer = text.tokenizer()
    rng = np.random.default_rng(0)
    for number in range(50):
        scene = world.scene(number)
        for prompt in (world.describe(scene), world.describe(scene, rng)):
            assert all(word in prompt.split() for word in (scene.colour, scene.shape, scene.background))
            tokens = tokenizer(prompt).input_ids
            assert len(tokens) == len(prompt.split()) + 2 <= text.MAX_LENGTH
            assert tokenizer.decode(tokens, skip_special_tokens=True).split() == prompt.split()


def test_a_standard_prompt_reads_as_expected():
    scene = next(s for s in map(world.scene, range(10**6)) if (s.colour, s.shape) == ("red", "circle"))
    article = "a red circle moving left on a black background"
    moved = world.Scene(**{**vars(scene), "motion": "left", "background": "black"})
    assert world.describe(moved) == article


@pytest.mark.parametrize("name", TINY)
def test_an_interrupted_training_resumes_to_the_same_bits(name: str, tmp_path: Path, monkeypatch):
    run, size, stages = TINY[name]
    straight = run(Training(tmp_path / "straight", minutes=100, steps=2), size)
    interrupted = Training(tmp_path / "resumed", minutes=100, steps=2)

    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    chance = loop.Chance
    for stage in stages:

        def stop(*key, at=stage):
            if key[1:] == (at, 1):
                raise KeyboardInterrupt
            return chance(*key)

        monkeypatch.setattr(loop, "Chance", stop)
        with pytest.raises(KeyboardInterrupt):
            run(interrupted, size)
    monkeypatch.setattr(loop, "Chance", chance)
    resumed = run(interrupted, size)

    for stage in stages:
        a, b = (torch.load(tmp_path / kind / f"{stage}.pt", weights_only=True) for kind in ("straight", "resumed"))
        a, b = ({**saved, "seconds": 0} for saved in (a, b))
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert (tmp_path / "resumed" / f"{stage}.png").stat().st_size > 0
    for key, component in straight.components.items():
        if isinstance(component, nn.Module):
            torch.testing.assert_close(component.state_dict(), resumed.components[key].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", TINY)
def test_training_goes_on_from_an_exported_model_where_it_fits(name: str, tmp_path: Path):
    run, size, _ = TINY[name]
    first = run(Training(tmp_path / "first", minutes=0), size)
    first.save_pretrained(tmp_path / "model")
    again = run(Training(tmp_path / "again", minutes=0, seed=1, start=tmp_path / "model"), size)
    other = run(Training(tmp_path / "other", minutes=0, seed=1), size)
    for part in ("unet", "vae"):
        torch.testing.assert_close(getattr(again, part).state_dict(), getattr(first, part).state_dict())
        with pytest.raises(AssertionError):
            torch.testing.assert_close(getattr(other, part).state_dict(), getattr(first, part).state_dict())
    wider = replace(size, unet=tuple(2 * width for width in size.unet))
    assert run(Training(tmp_path / "wider", minutes=0, start=tmp_path / "model"), wider).unet is not None


@pytest.mark.parametrize(
    ("name", "family"),
    [("tiny-animatediff", AnimateDiffPipeline), ("tiny-svd", StableVideoDiffusionPipeline)],
)
def test_a_bundled_model_loads_and_makes_a_video(name: str, family: type):
    pipeline = DiffusionPipeline.from_pretrained(MODELS / name, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline, family)
    question = sampling.questions(pipeline, 1)[0]
    video = sampling.sample(pipeline, question, steps=2)
    assert video.shape == (world.FRAMES, world.SIZE, world.SIZE, 3)
    assert np.isfinite(video).all()
    assert video.std() > 0.01
    with reuse.reusing(pipeline.unet, 1):
        np.testing.assert_array_equal(sampling.sample(pipeline, question, steps=2), video)
    with reuse.reusing(pipeline.unet, 2):
        assert not np.array_equal(sampling.sample(pipeline, question, steps=2), video)
    np.testing.assert_array_equal(sampling.sample(pipeline, question, steps=2), video)


def test_images_are_asked_to_stand_still_and_to_move_in_turn():
    pipeline = DiffusionPipeline.from_pretrained(MODELS / "tiny-svd", dtype=torch.float32, local_files_only=True)
    buckets = [world.motion_bucket(question.scene) for question in sampling.questions(pipeline, 40)]
    assert all(sampling.SLOW[0] <= bucket <= sampling.SLOW[1] for bucket in buckets[::2])
    assert all(sampling.FAST[0] <= bucket <= sampling.FAST[1] for bucket in buckets[1::2])


@pytest.mark.parametrize("name", ["tiny-animatediff", "tiny-svd"])
def test_a_bundled_model_is_small_and_readable_by_all(name: str):
    files = [path for path in (MODELS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in files)
    assert (MODELS / name / "README.md").exists()


@pytest.mark.parametrize("name", ["tiny-animatediff", "tiny-svd"])
def test_the_figures_on_a_card_are_those_measured(name, tmp_path):
    published = MODELS / name / "README.md"
    for file in (published, MODELS / name / "measured.json"):
        shutil.copy(file, tmp_path)
    model_card.update(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == published.read_text(encoding="utf-8")
