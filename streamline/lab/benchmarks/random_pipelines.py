"""Published pipelines with random weights: memory and seconds do not depend on the values, and no file is needed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
)
from torch import nn
from transformers import CLIPImageProcessor, CLIPTokenizer

from ...families.building import assemble, config
from ...families.building import parts as parts_of
from ...store.finding import BUNDLED

TOKENS = 77  # a prompt's length for Stable Diffusion 1.5
SVD_SCHEDULER = {
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
}
# The same layers, of fewer channels: for rehearsals, and for what a CPU can time.
SMALL = {
    "unet": {"block_out_channels": (32, 64, 64, 64), "num_attention_heads": 4},
    "vae": {"block_out_channels": (32, 32, 64, 64)},
    "image_encoder": {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4},
    "text_encoder": {"num_hidden_layers": 1},
    "motion_adapter": {"block_out_channels": (32, 64, 64, 64)},
}
MIDDLE = SMALL | {
    "unet": {"block_out_channels": (64, 128, 256, 256), "num_attention_heads": 4},
    "vae": {"block_out_channels": (32, 64, 128, 128)},
    "motion_adapter": {"block_out_channels": (64, 128, 256, 256)},
}


def random_pipeline(
    model: str, device: str | torch.device, dtype: torch.dtype, changes: Mapping[str, Mapping] = MappingProxyType({})
) -> DiffusionPipeline:
    """Return a published model by name, made where it will run. changes: to the configurations of its parts."""
    torch.manual_seed(0)
    parts = {}
    for part in parts_of(model):
        changed = config(model, part) | changes.get(part, {})
        with torch.device(device):
            parts[part] = nn.Module.to(assemble(changed), dtype)  # diffusers' own warns without need
    if "image_encoder" in parts:
        pipe = StableVideoDiffusionPipeline(
            **parts, scheduler=EulerDiscreteScheduler(**SVD_SCHEDULER), feature_extractor=CLIPImageProcessor()
        )
    else:
        tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "tiny-animatediff" / "tokenizer", model_max_length=TOKENS)
        scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1)
        pipe = AnimateDiffPipeline(**parts, tokenizer=tokenizer, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe
