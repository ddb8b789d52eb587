"""What happens while an order is worked on: plain data, which may cross from one process to another."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

import streamline


@dataclass(frozen=True)
class Loading:
    """The model is being loaded."""


@dataclass(frozen=True)
class Warming:
    """A short run before one that is timed, for what is done only once."""


@dataclass(frozen=True)
class PartStarted:
    """A part of the order begins. index: its place in the order. weights_bytes: of all networks."""

    index: int
    weights_bytes: int


@dataclass(frozen=True)
class Stepped:
    """A denoising step is done. preview: small frames of the video so far, or none this time. Bytes with weights."""

    index: int
    total: int
    seconds: float
    live_bytes: int
    peak_bytes: int
    preview: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Noted:
    """Something that the run says about itself, like memory having run out and what it did. sentence: for people."""

    sentence: str


@dataclass(frozen=True)
class Decoding:
    """Denoising is done; the latents become frames."""


@dataclass(frozen=True)
class PartDone:
    """A part of the order is done."""

    index: int
    result: streamline.Result
    receipt: streamline.Receipt


@dataclass(frozen=True)
class Checking:
    """The video is made; now the original is, to measure how close they are."""


@dataclass(frozen=True)
class Checked:
    """How close the video is to the original's."""

    fidelity: streamline.Fidelity


@dataclass(frozen=True)
class Failed:
    """The order ends here. sentence: why, for people."""

    sentence: str


Event = Loading | Warming | PartStarted | Stepped | Noted | Decoding | PartDone | Checking | Checked | Failed
