"""Weights that were cut short, or are of another kind, are told before they are loaded, by their headers alone."""

import json
import pickle
import random
import shutil

import pytest
import torch
import untrained
from safetensors.torch import save_file

from streamline import ModelError, load
from streamline.store.checks import check_weights, has_weights
from streamline.store.finding import find


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.zeros(3, 5), "b": torch.ones(7, dtype=torch.float16), "c": torch.tensor(True)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "svd"
    untrained.svd().save_pretrained(folder)
    return folder


def test_whole_files_pass(file):
    check_weights(file.parent)
    save_file({}, file)
    check_weights(file.parent)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.int64])
def test_every_type_passes(file, dtype):
    save_file({"x": torch.zeros(9).to(dtype)}, file)
    check_weights(file.parent)


def test_a_file_of_any_other_length_is_refused(file):
    content = file.read_bytes()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"cannot be read: .*; delete the file and fetch it again\.$"):
            check_weights(file.parent)
    file.write_bytes(content + b"x")
    with pytest.raises(ModelError, match="should hold"):
        check_weights(file.parent)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_header_is_a_sentence_or_harmless(file, seed):
    """Random bytes in the header: it is refused, or still says the same places."""
    rng, content = random.Random(seed), bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(0, 200)] = rng.randrange(256)
    file.write_bytes(content)
    try:
        check_weights(file.parent)
    except ModelError as error:
        assert str(file) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", pickle.dumps({"a": 1}),
     b"PK\x03\x04" + b"\x00" * 50, b"\x10" + b"\x00" * 7 + b'{"a":[1,2,3,45]}', b"\x02" + b"\x00" * 7 + b"[]"],
)  # fmt: skip
def test_another_kind_of_file_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        check_weights(file.parent)


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
def test_no_part_of_a_model_is_loaded_where_one_is_cut(model, tmp_path, part, monkeypatch):
    folder = tmp_path / "cut"
    shutil.copytree(model, folder)
    path = next((folder / part).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ModelError, match=rf"{part}.* should hold [\d,]+ bytes"):
        load(str(folder), device="cpu")


def test_what_does_not_belong_to_the_model_may_be_broken(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "all.safetensors").write_bytes(b"")
    assert load(str(folder), device="cpu").unet is not None


def test_weights_in_several_files_are_there_once_all_of_them_are(tmp_path):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = tmp_path / "model.safetensors.index.json"
    for shard in shards:
        assert not has_weights(tmp_path)
        save_file({shard: torch.zeros(1)}, tmp_path / shard)
    assert not has_weights(tmp_path)
    index.write_text(json.dumps({"weight_map": {shard: shard for shard in shards}}))
    assert has_weights(tmp_path)
    (tmp_path / shards[0]).unlink()
    assert not has_weights(tmp_path)
    for broken in ("", "[]", '{"weight_map": 3}'):
        index.write_text(broken)
        assert not has_weights(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.fp16.safetensors")
    assert has_weights(tmp_path)


def test_pickles_are_refused_in_a_sentence(model, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(model, folder)
    for path in (folder / "unet").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    assert find(str(folder)) is None
    with pytest.raises(ModelError, match=r"only pickled weights \(unet/.*which are not loaded; safetensors are\.$"):
        load(str(folder), device="cpu", offline=True)
