"""Stages that several networks share, and the two views of features that pixel stages convert between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.resnet import Downsample2D, Upsample2D
from diffusers.pipelines.free_noise_utils import SplitInferenceModule
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...program.conditions import Conditions
from ...program.stages import CALL, Builder
from . import plain
from .plain import opens_resnet


def to_video(rows: Tensor, batch: int) -> Tensor:
    """(batch x frames, channels, pixels, 1) -> (batch, channels, frames, pixels, 1), a view."""
    return rows.unflatten(0, (batch, -1)).transpose(1, 2)


def to_rows(video: Tensor) -> Tensor:
    """(batch, channels, frames, pixels, 1) -> (batch x frames, channels, pixels, 1); a view for one sample."""
    return video.transpose(1, 2).flatten(0, 1)


def require(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Raise UnsupportedError unless the module is exactly of one of these classes, whose insides are known.

    FreeNoise's split inference wraps modules that are called, and calls them piece by piece: that goes with
    slices, so what counts is the module inside.
    """
    if isinstance(module, SplitInferenceModule):
        module = module.module
    if type(module) not in kinds:
        known = " or ".join(kind.__name__ for kind in kinds)
        raise UnsupportedError(f"This network has a {type(module).__name__} where a {known} was expected.")


def require_open(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Require a class whose parts are called in its place, and that nothing waits for it to be called itself."""
    require(module, *kinds)
    hooks = module._forward_pre_hooks or module._forward_hooks
    if hooks or module._compiled_call_impl is not None:
        raise UnsupportedError(
            f"A {type(module).__name__} is run part by part, so hooks on it or compiling it would have no "
            "effect; use them on its parts, or on the whole network."
        )


def resnet(p: Builder, name: str, block: nn.Module, x: str, call: Callable[..., Tensor] = nn.Module.__call__) -> str:
    """A spatial ResnetBlock2D, conditioned on the time embedding where the network has one.

    call: call(block, x, emb) calls it just as diffusers does there, by position or by name: hooks can tell.
    """
    if opens_resnet(block):
        return p.frames(name, lambda c, x: plain.resnet(block, x, c["emb"]), x, of=[block], kind="resnet, open")
    return p.frames(name, lambda c, x: call(block, x, c["emb"]), x, of=[block], kind="resnet")


def downsample(
    p: Builder, name: str, layers: nn.ModuleList | None, x: str, call: Callable[..., Tensor] = nn.Module.__call__
) -> str:
    """The downsamplers of a down block, if it has any; call(layer, x) as diffusers does there."""
    for index, layer in enumerate(layers or ()):
        require(layer, Downsample2D)
        x = p.frames(f"{name}.{index}", lambda c, x, layer=layer: call(layer, x), x, of=[layer], kind=CALL)
    return x


def upsample(
    p: Builder, name: str, layers: nn.ModuleList | None, x: str, next_skip: str | None, call: Callable[..., Tensor]
) -> str:
    """The upsamplers of an up block of a UNet, if it has any; call(layer, x, size) as diffusers does there.

    next_skip: the skip value the result will be joined with. Where halving had rounded, the result takes that
        value's height and width (diffusers' `upsample_size`); condition "resize" says so.
    """

    def run(c: Conditions, x: Tensor, *skip: Tensor, layer: nn.Module) -> Tensor:
        return call(layer, x, skip[0].shape[2:] if skip and c["resize"] else None)

    for index, layer in enumerate(layers or ()):
        require(layer, Upsample2D)
        reads = (x,) if next_skip is None else (x, next_skip)
        x = p.frames(
            f"{name}.{index}",
            lambda c, *slices, layer=layer: run(c, *slices, layer=layer),
            *reads,
            of=[layer],
            kind="upsample",
        )
    return x


def join(
    p: Builder,
    name: str,
    block: nn.Module,
    x: str,
    skip: str,
    add: Callable[[Conditions, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> str:
    """Concatenate a skip connection in an up block of a UNet, with what FreeU does to both.

    add: adds to features and skip first what the pipeline has given for them.
    """

    def run(c: Conditions, x: Tensor, skip: Tensor) -> Tensor:
        if add is not None:
            x, skip = add(c, x, skip)
        freeu = {key: getattr(block, key, None) for key in ("s1", "s2", "b1", "b2")}
        if all(freeu.values()):
            # It scales x in place, and x here is a view of a value that is not ours alone.
            x, skip = apply_freeu(block.resolution_idx, x.clone(), skip, **freeu)
        return torch.cat([x, skip], dim=1)

    return p.frames(name, run, x, skip)


def double(p: Builder, name: str, layers: nn.ModuleList | None, x: str) -> str:
    """The upsamplers of an up block of a decoder, if it has any."""
    for index, layer in enumerate(layers or ()):
        require(layer, Upsample2D)
        x = p.frames(f"{name}.{index}", lambda c, x, layer=layer: layer(x), x, of=[layer], kind=CALL)
    return x


def project_out(p: Builder, norm: nn.Module | None, act: nn.Module, conv: nn.Module, x: str) -> str:
    """The closing norm, activation and convolution of a network."""
    if norm is None:
        return p.frames("out", lambda c, x: conv(x), x, of=[conv])
    return p.frames("out", lambda c, x: conv(act(norm(x))), x, of=[norm, act, conv])
