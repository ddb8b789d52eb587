"""The published networks, as described here, are the ones on the hub."""

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from streamline.errors import ModelError
from streamline.families import building as published

SD15_UNET = 859_520_964
MOTION_V3 = 417_137_600
MOTION_V2 = 453_209_280

PARAMETERS = {  # of the files on the hub
    ("svd", "unet"): 1_524_623_082,
    ("svd", "vae"): 97_742_847,
    ("svd", "image_encoder"): 632_076_800,
    ("svd-xt", "unet"): 1_524_623_082,
    ("animatediff", "unet"): SD15_UNET + MOTION_V3,
    ("animatediff-v2", "unet"): SD15_UNET + MOTION_V2,
    ("animatediff", "motion_adapter"): MOTION_V3,
    ("animatediff-v2", "motion_adapter"): MOTION_V2,
    ("animatediff", "vae"): 83_653_863,
    ("animatediff", "text_encoder"): 123_060_480,
}


@pytest.mark.parametrize(("model", "part"), PARAMETERS)
def test_parameter_counts(model, part):
    with torch.device("meta"):
        network = published.build(model, part)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[model, part]
    assert all(parameter.is_meta for parameter in network.parameters())
    assert not network.training


@pytest.mark.parametrize(("model", "mid_block"), [("animatediff", False), ("animatediff-v2", True)])
def test_motion_unet_is_what_diffusers_joins(model, mid_block):
    with torch.device("meta"):
        image_unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        adapter = MotionAdapter(use_motion_mid_block=mid_block)
        joined = UNetMotionModel.from_unet2d(image_unet, adapter, load_weights=False)
        built = published.build(model, "unet")
    shapes = {name: value.shape for name, value in joined.state_dict().items()}
    assert {name: value.shape for name, value in built.state_dict().items()} == shapes


def test_frames_of_svd_and_svd_xt():
    assert published.config("svd", "unet")["num_frames"] == 14
    assert published.config("svd-xt", "unet")["num_frames"] == 25


@pytest.mark.parametrize(("model", "part"), [("svd", "unet"), ("svd", "vae"), ("animatediff", "unet")])
def test_builds_on_fake_tensors(model, part):
    with FakeTensorMode():
        network = published.build(model, part)
    assert all(isinstance(parameter, FakeTensor) for parameter in network.parameters())


@pytest.mark.parametrize(("model", "part"), [("sora", "unet"), ("svd", "text_encoder")])
def test_unknown_names_are_refused(model, part):
    with pytest.raises(ModelError, match=model):
        published.build(model, part)
