"""What a pipeline was doing when memory ran out, in words."""

from __future__ import annotations

import traceback

from diffusers import DiffusionPipeline
from torch import nn

DOING = {
    "unet": "in the denoiser",
    "text_encoder": "while the text was encoded",
    "text_encoder_2": "while the text was encoded",
    "image_encoder": "while the picture was encoded",
    "controlnet": "in the ControlNet",
}


def whereabouts(error: BaseException, pipe: DiffusionPipeline, steps: int, is_decoding: bool) -> str:
    """Like "while the text was encoded", from the network that an error comes from, or else from how far the run was.

    steps: how many are done. is_decoding: whether the decoder was called.
    """
    names = {id(part): name for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    callers = (id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__))
    name = next((names[caller] for caller in callers if caller in names), None)
    if name == "vae":
        return f"in the decoder, after {steps} steps" if steps else "while the picture was encoded"
    if name in DOING:
        return DOING[name] if steps == 0 or name.startswith(("text", "image")) else f"{DOING[name]}, after step {steps}"
    if is_decoding:
        return "while the frames were put together"
    return f"after step {steps}" if steps else "before the first step"
