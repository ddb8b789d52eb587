"""Benchmarks: methods are compared on the same clips, scores mean what they say, and README follows the results."""

import json
import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import untrained
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from streamline import Job, ModelError, Plan, run
from streamline.cli import main
from streamline.families.layers import plain
from streamline.lab.benchmarks import gpu, measuring, pictures, readme, results, scoring, tables
from streamline.lab.benchmarks.cases import plain_cases, world_cases
from streamline.lab.benchmarks.field_scores import ClipScore
from streamline.lab.benchmarks.memory import peak_in_fresh_process
from streamline.lab.benchmarks.methods import ByHand, Closed, Naive, Original, Streamlined, identity, tuned_by_hand
from streamline.lab.commands.bench import open_pipeline
from streamline.store.finding import BUNDLED

MODELS = ("tiny-animatediff", "tiny-svd")


@pytest.fixture(scope="module", params=MODELS)
def bench(request):
    opened = partial(open_pipeline, request.param, "cpu")
    return measuring.Bench(request.param, opened(), opened, "speed")


def test_every_method_makes_every_case_and_a_second_run_makes_none(bench, tmp_path, monkeypatch):
    cases = world_cases(bench.pipe, clips=2, seeds=2, steps=1)
    methods = [Original(), ByHand(), Naive(), Streamlined("four slices", Plan.uniform(4))]
    result = measuring.measure(bench, cases, methods, tmp_path / "speed.json", with_memory=False)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == [method.name for method in methods]
    assert result["clips"] == 2 and result["scenes"] == 1
    assert rows["original"]["psnr"] is None and rows["original"]["share_of_original"] == 1
    assert rows["original"]["latent_error"]["worst"] == 0
    assert rows["four slices"]["latent_error"]["worst"] < 1e-5
    assert rows["naive slicing"]["psnr"] < 40 and "latent_error" not in rows["naive slicing"]
    assert all(0 <= row["agreement"]["mean"] <= 1 and row["frechet_distance"] > 0 for row in rows.values())
    assert results.load(tmp_path / "speed.json") == result

    monkeypatch.setattr(measuring, "_measure_case", lambda *_: pytest.fail("measured again"))
    again = measuring.measure(bench, cases, methods, tmp_path / "speed.json", with_memory=False)
    assert again["rows"] == result["rows"]


def test_switches_for_less_memory_are_switched_off_again(bench):
    case = world_cases(bench.pipe, clips=1, steps=1)[0]
    before = run(bench.pipe, case.job, None, case.image)
    with tuned_by_hand(bench.pipe) as options:
        tuned = run(bench.pipe, case.job, None, case.image, call_options=options)
    after = run(bench.pipe, case.job, None, case.image)
    assert tuned.peak_bytes < before.peak_bytes == after.peak_bytes
    assert before.frames == after.frames


def test_memory_of_a_fresh_process(bench):
    case = world_cases(bench.pipe, clips=1, steps=1)[0]
    original, sliced = (
        peak_in_fresh_process(bench.open_pipeline, method, case)
        for method in (Original(), Streamlined("sliced", Plan.uniform(4)))
    )
    assert original.weights_bytes == sliced.weights_bytes < sliced.tensor_bytes < original.tensor_bytes
    here = run(bench.pipe, case.job, None, case.image)
    assert here.peak_bytes == original.tensor_bytes
    if original.process_bytes is not None:
        assert original.process_bytes > original.started_bytes > original.weights_bytes


def test_uncounted_runs_give_the_same_video():
    pipe = untrained.animatediff()
    job = Job.for_model(pipe, prompt="a cat", num_frames=4, num_inference_steps=2)
    counted, uncounted = run(pipe, job), run(pipe, job, count_tensors=False)
    assert counted.frames == uncounted.frames
    assert counted.peak_bytes > counted.weights_bytes and uncounted.peak_bytes == 0


def test_cases_are_the_same_for_any_number_of_them(bench):
    few, many = world_cases(bench.pipe, 4, seeds=2), world_cases(bench.pipe, 6, seeds=2)
    assert [case.key for case in few] == [case.key for case in many[:4]]
    assert len({case.key for case in many}) == 6 and len({case.scene for case in many}) == 3
    with_size = world_cases(bench.pipe, 1, size=(64, 96))[0]
    assert with_size.question is None and (with_size.job.height, with_size.job.width) == (64, 96)


@pytest.mark.parametrize("make", [untrained.animatediff, untrained.svd])
def test_closed_layers_are_left_whole_and_give_the_same(make):
    pipe = make()
    case = plain_cases(pipe, clips=1, steps=2, size=(64, 64))[0]
    kinds = sum(tables.OPENED.values(), ())
    layers = [part for part in (*pipe.unet.modules(), *pipe.vae.modules()) if type(part).__name__ in kinds]
    assert case.question is None and any(map(plain.opens_resnet, layers)) and any(map(plain.opens_transformer, layers))
    closed, seen = Closed("closed", Plan(), kinds), []

    def on_event(event):
        seen.append(any(plain.opens_resnet(one) or plain.opens_transformer(one) for one in layers))

    found = closed(pipe, case.job, case.image, on_event=on_event)
    assert seen and not any(seen) and any(map(plain.opens_resnet, layers))
    original = Original()(pipe, case.job, case.image)
    assert scoring.closeness(found.frames, original.frames)["squared_error"] < 1
    assert identity(closed) != identity(Closed("closed", Plan(), kinds[:1]))


def test_equal_methods_have_one_identity():
    plan = Plan.uniform(2)
    assert identity(Streamlined("a", plan)) == identity(Streamlined("b", replace(plan, reasons=("because",))))
    assert identity(Streamlined("a", plan)) != identity(Streamlined("a", Plan.uniform(3)))
    assert identity(Original()) != identity(Original(steps=13))


def picture(value):
    return Image.fromarray(np.full((16, 16, 3), value, np.uint8))


def test_closeness_is_that_of_the_metrics():
    assert scoring.closeness([picture(10)], [picture(10)]) == {"squared_error": 0.0, "ssim": 1.0}
    assert scoring.closeness([picture(10)], [picture(12)])["squared_error"] == pytest.approx(4)
    clips = [{"squared_error": error, "ssim": 1, "change_inside": 1, "change_across": 2} for error in (0.0, 8.0)]
    found = scoring.summary(clips, [0, 1], None)
    assert found["psnr"] == pytest.approx(10 * math.log10(255**2 / 4)) and found["border_jump"] == 2


def test_the_spread_over_seeds_is_not_that_over_scenes():
    assert scoring.spread_over_seeds([1.0, 1.0, 5.0, 5.0], [0, 0, 1, 1]) == 0
    assert scoring.spread_over_seeds([1.0, 3.0, 9.0, 5.0], [0, 0, 1, 1]) == pytest.approx(math.sqrt((2 + 8) / 2))
    assert scoring.spread_over_seeds([1.0, 3.0], [0, 1]) is None


def test_a_jump_at_a_border_is_seen_there():
    frames = [picture(value) for value in (0, 1, 2, 3, 13, 14, 15, 16)]
    assert scoring.movement(frames, (4,)) == {"change_inside": 1.0, "change_across": 10.0}
    pipe = untrained.animatediff()
    assert scoring.borders_of(pipe, 8) == (4,) and scoring.borders_of(untrained.svd(), 6) == (2, 4)


def test_clip_score_is_the_cosine_of_what_the_model_makes_of_both(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "tiny-animatediff" / "tokenizer")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 16}
    config = CLIPConfig(text_config=size | text, vision_config=size | {"patch_size": 32}, projection_dim=16)
    model, images = CLIPModel(config).eval(), CLIPImageProcessor()
    model.save_pretrained(tmp_path)
    CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)
    frames, prompt = [picture(value) for value in (0, 90, 255)], "a red circle " * 20
    words = tokenizer(prompt, return_tensors="pt", truncation=True)
    with torch.no_grad():
        said = model.get_text_features(**words).pooler_output
        seen = model.get_image_features(images(frames, return_tensors="pt")["pixel_values"]).pooler_output
    expected = 100 * torch.cosine_similarity(seen, said).clamp(min=0).mean()
    assert ClipScore(str(tmp_path), "cpu")(frames, prompt) == pytest.approx(float(expected), abs=1e-3)
    with pytest.raises(ModelError, match="cannot be loaded as a CLIP model"):
        ClipScore(str(tmp_path / "nothing"), "cpu")


def test_latent_error():
    original = torch.ones(4)
    assert scoring.latent_error(original, original) == 0
    assert scoring.latent_error(1.5 * original, original) == pytest.approx(0.5)


@pytest.mark.parametrize("table", tables.TABLES)
def test_every_table_begins_with_the_original_and_names_each_method_once(bench, table, monkeypatch):
    peak = tables.peak_of(bench, bench.records(), Original(), world_cases(bench.pipe, 1, steps=1)[0])
    monkeypatch.setattr(tables, "peak_of", lambda *_: peak)
    methods = tables.TABLES[table].methods(bench, world_cases(bench.pipe, 1))
    names = [method.name for method in methods]
    assert methods[0] == Original() and len(names) == len(set(names)) > 2


def test_readme_says_what_was_measured():
    text = readme.README.read_text(encoding="utf-8")
    marked = re.findall(r"<!-- bench:(\w+) -->", text)
    assert marked and set(marked) <= set(readme.BLOCKS)
    assert readme.fill(text) == text, "README has drifted from assets/benchmarks: ./launch.sh cli bench readme"


def test_pictures_show_what_was_measured():
    measured = readme.found(results.FOLDER, "frontier")
    path = results.FOLDER / readme.PICTURE
    if not measured:
        pytest.skip("no frontier has been measured yet")
    assert pictures.drawn_from(path) == pictures.digest(measured)


def test_every_result_says_where_it_comes_from():
    for path in results.FOLDER.glob("*.json"):
        result = results.load(path)
        assert {"table", "date", "device", "versions", "rows"} <= set(result), path.name


def test_readme_follows_a_result(tmp_path):
    row = {"name": "original", "method": Original().describe(), "memory": None, "clips": 1, "border_jump": 1.0}
    row |= {"seconds": 2.0, "denoise_seconds": 1.5, "decode_seconds": 0.5, "share_of_original": 1.0}
    row |= {"psnr": None, "ssim": 1.0}
    about = results.about("cpu") | {"clips": 1, "scenes": 1, "model": "some-model"}
    job = {"height": 64, "width": 64, "num_frames": 8, "num_inference_steps": 25, "guidance_scale": 3.0}
    result = {"table": "speed", **about, "job": job, "rows": [row]}
    results.save(tmp_path / "speed-some-model.json", result)
    text = "before\n<!-- bench:speed -->\nstale\n<!-- /bench:speed -->\nafter\n"
    filled = readme.fill(text, tmp_path)
    assert "stale" not in filled and "| original | 2.00 |" in filled and filled.endswith("after\n")
    assert readme.fill(filled, tmp_path) == filled


def test_the_command(tmp_path, capsys):
    arguments = ["bench", "table2", "--model", "tiny-animatediff", "--device", "cpu", "--clips", "1", "--steps", "2"]
    assert main([*arguments, "--out", str(tmp_path), "--json", str(tmp_path / "all.json")]) == 0
    assert "| original |" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "all.json").read_text())["results"]
    assert result == results.load(tmp_path / "table2-tiny-animatediff.json")
    assert main(["bench", "table1", "--clips", "0"]) == 2


def check_gpu_result(result):
    assert {row["model"] for row in result["rows"]} == set(gpu.SMALL_MODELS)
    assert not result["left_out"]
    assert all(one["float32"] < 1e-5 for one in result["parity"])
    assert all(row["tensor_bytes"] > row["weights_bytes"] > 0 and row["seconds"] > 0 for row in result["rows"])
    assert all(row["predicted_bytes"] for row in result["rows"] if row["name"] != "original")
    assert readme.BLOCKS["gpu"]([result])


@pytest.mark.slow
def test_what_runs_on_a_gpu_is_rehearsed(tmp_path):
    check_gpu_result(gpu.measure_gpu(tmp_path / "gpu.json", "cpu", rehearse=True))


@pytest.mark.gpu
def test_what_runs_on_a_gpu_runs_there(tmp_path):
    result = gpu.measure_gpu(tmp_path / "gpu.json", "cuda", rehearse=True)
    check_gpu_result(result)
    assert all(row["card_bytes"] for row in result["rows"])


def test_time_that_runs_out_is_told(tmp_path):
    result = gpu.measure_gpu(tmp_path / "gpu.json", "cpu", rehearse=True, minutes=0)
    assert not result["rows"] and all(row["reason"] == "no time left" for row in result["left_out"])
