"""Models are found, or refused with a sentence, and loaded in the right kind and precision."""

import json
from dataclasses import replace

import pytest
import torch
import untrained
from diffusers import AnimateDiffPipeline, DDIMScheduler, StableVideoDiffusionPipeline
from safetensors.torch import load_file

from streamline import MODELS, InputError, ModelError, load
from streamline.families.naming import model_of
from streamline.models import loading as catalog
from streamline.models.loading import _variant
from streamline.store.finding import BUNDLED
from streamline.weights.residency import bring


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders in diffusers' layout: animatediff, svd (half precision), and an image model with an adapter."""
    folder = tmp_path_factory.mktemp("models")
    untrained.animatediff().save_pretrained(folder / "animatediff")
    untrained.svd().to(dtype=torch.float16).save_pretrained(folder / "svd", variant="fp16")
    untrained.image_model().save_pretrained(folder / "image")
    untrained.motion_adapter().save_pretrained(folder / "motion")
    return folder


@pytest.fixture(autouse=True)
def empty_hub(monkeypatch):
    """No test asks the hub; what is asked for in vain is asked of a host that does not exist."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("name", "kind"), [("animatediff", AnimateDiffPipeline), ("svd", StableVideoDiffusionPipeline)]
)
def test_a_folder_loads_as_what_its_index_says(folder, name, kind):
    pipe = load(str(folder / name), device="cpu")
    assert type(pipe) is kind
    assert pipe.unet.dtype == pipe.vae.dtype == torch.float32


def test_half_precision_files_keep_their_values(folder):
    stored = load_file(next((folder / "svd" / "unet").glob("*.fp16.safetensors")))
    loaded = load(str(folder / "svd"), device="cpu").unet.state_dict()
    assert all(value.dtype == torch.float32 for value in loaded.values())
    assert all(torch.equal(loaded[name], value.float()) for name, value in stored.items())


def test_dtype_can_be_chosen(folder):
    assert load(str(folder / "svd"), device="cpu", dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_an_image_model_is_moved_by_an_adapter(folder):
    pipe = load("animatediff", device="cpu", base=str(folder / "image"), motion_adapter=str(folder / "motion"))
    assert type(pipe) is AnimateDiffPipeline
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert pipe.scheduler.config.beta_schedule == "linear"
    frozen = untrained.motion_adapter().state_dict()
    moved = pipe.unet.state_dict()
    name = "down_blocks.0.motion_modules.0.proj_in.weight"
    assert torch.equal(moved[name], frozen[name])


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("nonesuch", {}, "not a folder with a complete diffusers model"),
        ("./nonesuch", {}, "not a folder with a complete diffusers model"),
        ("svd", {}, "is not on this machine"),
        ("svd", {"offline": True}, "is not on this machine"),
        ("svd", {"base": "a/b"}, "no base to exchange"),
        ("{folder}/image", {}, "makes images"),
        ("{folder}/motion", {}, "single network"),
        ("{folder}/svd", {"motion_adapter": "{folder}/motion"}, "moves a Stable Diffusion 1.5 model"),
        ("{folder}/broken", {}, "cannot be read"),
        ("{folder}/cut", {}, "cannot be read"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_a_sentence(folder, name, options, sentence):
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "model_index.json").write_text("{")
    _cut_short(folder)
    options = {key: value.format(folder=folder) if key != "offline" else value for key, value in options.items()}
    with pytest.raises(ModelError, match=sentence):
        load(name.format(folder=folder), device="cpu", **options)


def test_a_device_that_is_not_here_is_refused(folder):
    with pytest.raises(InputError, match="no device"):
        load(str(folder / "svd"), device="abacus")


@pytest.mark.parametrize("name", ["tiny-animatediff", "tiny-svd"])
def test_bundled_models_are_here_and_small(name):
    model = next(model for model in MODELS if model.name == name)
    assert model.is_here
    assert sum(file.stat().st_size for file in (BUNDLED / name).rglob("*") if file.is_file()) < 40e6
    pipe = load(name, device="cpu")
    assert model_of(pipe) is model
    assert json.loads((BUNDLED / name / "model_index.json").read_text())["_class_name"] == type(pipe).__name__


@pytest.mark.parametrize(
    ("files", "half", "variant"),
    [
        (["unet/a.safetensors", "unet/a.fp16.safetensors"], True, "fp16"),
        (["unet/a.safetensors", "unet/a.fp16.safetensors"], False, None),
        (["unet/a.fp16.safetensors"], False, "fp16"),
        (["unet/a.safetensors"], True, None),
        (["unet/a.safetensors", "unet/a.fp16.safetensors", "vae/a.fp16.safetensors"], False, "fp16"),
    ],
)
def test_the_files_that_are_there_are_used(files, half, variant):
    assert _variant(files, half) == variant


def _cut_short(folder):
    """A model one of whose files is damaged."""
    if not (folder / "cut").exists():
        untrained.svd().save_pretrained(folder / "cut")
        file = next((folder / "cut" / "unet").glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:1000])


def test_weights_that_others_leave_no_room_for_come_one_by_one(monkeypatch):
    """No GPU is needed: where moving ends is what counts."""
    pipe, asked = untrained.animatediff(), []

    def full(*_):
        raise torch.OutOfMemoryError("On demand.")

    monkeypatch.setattr(pipe, "to", full)
    monkeypatch.setattr(pipe, "enable_model_cpu_offload", lambda device: asked.append(device))
    bring(pipe, torch.device("cuda"))
    assert asked == [torch.device("cuda")]
    with pytest.raises(torch.OutOfMemoryError):
        bring(pipe, torch.device("cpu"))


@pytest.mark.gpu
def test_a_gpu_without_room_for_all_weights_gets_them_one_by_one(monkeypatch):
    here = catalog.detect("cuda")
    roomy = load("tiny-svd", device="cuda")
    monkeypatch.setattr(catalog, "detect", lambda _: replace(here, free_bytes=1))
    narrow = load("tiny-svd", device="cuda")
    assert roomy.unet.device.type == "cuda" and narrow.unet.device.type == "cpu"
    assert narrow._execution_device.type == "cuda"
