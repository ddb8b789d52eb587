"""What is estimated of a reuse is what a run with it does; the search finds the best path; the command keeps it all."""

import itertools
import json

import numpy as np
import pytest
import torch
import untrained
from PIL import Image

from streamline import InputError, Job, Plan, Rehash, load
from streamline.cli import main
from streamline.lab.reuse.calibrating import calibrate
from streamline.lab.reuse.measuring import (
    OLDEST,
    CalibrationSample,
    Effects,
    Reuse,
    batches_of,
    effects,
    final_latents,
    record,
    relative_error,
    similarity_map,
)
from streamline.lab.reuse.search import best_paths, join
from streamline.planning.calibrations import calibration_of

STEPS = 5


@pytest.fixture(scope="module", params=["svd", "animatediff"])
def measured(request):
    pipe = getattr(untrained, request.param)()
    pipe.set_progress_bar_config(disable=True)
    is_svd = request.param == "svd"
    image = Image.radial_gradient("L").convert("RGB") if is_svd else None
    given = {} if is_svd else {"prompt": "a cat"}
    size = {"height": 32, "width": 32, "num_frames": 4, "num_inference_steps": STEPS}
    samples = [CalibrationSample(Job.for_model(pipe, seed=seed, **size, **given), image) for seed in (3, 4)]
    (batch,) = batches_of(samples)
    known = record(pipe, batch, ("last-layer",))
    return pipe, batch, known, effects(pipe, batch, known, directions=6)


def test_a_batch_ends_where_its_samples_do(measured):
    pipe, batch, known, _ = measured
    alone = torch.cat([final_latents(pipe, [sample]) for sample in batch])
    assert relative_error(known.latents, alone).max() < 1e-4
    assert relative_error(alone, alone).max() == 0


def test_effects_are_those_of_runs(measured):
    """One reused step at a time, and several, whose effects add up."""
    pipe, batch, known, found = measured
    for full in ((0, 2, 3, 4), (0, 1, 3, 4), (0, 1, 2, 4), (0, 2, 4)):
        path = best_paths(found, "last-layer", 0.0, uncertainty=0.0)
        rehash = Rehash(full, "last-layer")
        true = relative_error(final_latents(pipe, batch, Plan(rehash=rehash)), known.latents)
        total = sum(
            found.of[step, Reuse("last-layer", max(one for one in full if one < step), False)]
            for step in range(STEPS)
            if step not in full
        )
        assert total.norm(dim=1) == pytest.approx(true, rel=0.25, abs=1e-4)
        assert path[len(full)].error <= float(total.norm(dim=1).max()) + 1e-6


def test_similarity_is_one_to_itself(measured):
    found = similarity_map(measured[2], "last-layer")
    assert found.shape == (STEPS, STEPS) and torch.allclose(found.diagonal(), torch.ones(STEPS))
    assert torch.allclose(found, found.mT) and found.max() <= 1 + 1e-5


def test_the_search_finds_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    steps = OLDEST + 2

    def random_effects():
        of = {}
        for step in range(1, steps - 1):
            for source in range(max(0, step - OLDEST), step):
                for moved in (False, True):
                    values = rng.normal(size=(2, 3)) * (step - source)
                    of[step, Reuse("paper", source, moved)] = torch.tensor(values, dtype=torch.float32)
        return Effects(steps, of)

    found = join([random_effects(), random_effects()])
    best = best_paths(found, "paper", 0.5, beam=10_000, uncertainty=0.0)
    for count in range(2, steps + 1):
        errors = {}
        for inner in itertools.combinations(range(1, steps - 1), count - 2):
            full = (0, *inner, steps - 1)
            total = torch.zeros(4, 3)
            for step in set(range(steps)) - set(full):
                source = max(one for one in full if one < step)
                plain, moved = (found.of[step, Reuse("paper", source, one)] for one in (False, True))
                total += plain + 0.5 * (moved - plain)
            errors[full] = float(total.norm(dim=1).max())
        assert best[count].error == pytest.approx(min(errors.values()), abs=1e-5)
        assert errors[best[count].full_steps] == pytest.approx(best[count].error, abs=1e-5)
    assert best[steps].error == 0


def test_the_command_calibrates_and_plans_find_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STREAMLINE_CACHE", str(tmp_path))
    options = ["--steps", "9", "--seeds", "2", "--cuts", "prediction", "--size", "32x32", "--frames", "2"]
    assert main(["calibrate", *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (tmp_path / "rehash" / "tiny-animatediff-ddim-9.json").exists() and said["samples"] == 2
    assert Image.open(said["picture"]).size[0] > 400
    pipe = load("tiny-animatediff")
    found = calibration_of(pipe, Job.for_model(pipe, num_inference_steps=9))
    assert found is not None and found.steps == 9 and len(found.similarity) == 9
    assert {option.rehash.cut for option in found.options if option.rehash} == {"prediction"}
    assert any(option.sampler for option in found.options)
    assert all(0 < option.mean <= option.error for option in found.options)
    assert [cost.cut for cost in found.costs] == ["prediction"] and 0 < found.costs[0].measured < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--seeds", "0"], "at least 1"), (["--scheduler", "Plan"], "scheduler"), (["--steps", "8"], "nothing is reused")],
)
def test_bad_input_is_one_sentence(options, words, capsys):
    assert main(["calibrate", *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said


def test_samples_must_be_alike():
    with pytest.raises(InputError, match="one number of steps"):
        calibrate(None, [])
