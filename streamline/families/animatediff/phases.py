"""What AnimateDiff's pipelines do for a video one after the other, and what they hold meanwhile.

A job gives size, frames, steps and guidance. All else is taken to be as the pipelines' calls have it by default, and:
a video that is given has the job's number of frames, and its `strength` is not counted, as with
enforce_inference_steps; of conditioning frames there is one a frame for each ControlNet, and SPARSE_FRAMES for
SparseCtrl; PIA's picture has the job's size, in which `Family.arguments` gives it. IP-Adapters are not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

from ...errors import UnsupportedError
from ...job import Job
from ..base import Called, Phase
from ..layers.held import FLOAT32, STEPS_HELD, Sizes
from ..layers.offload import ModelOffload
from ..subject import Subject

CHUNK = 16  # frames that its pipelines encode and decode at a time
SPARSE_FRAMES = 3  # conditioning frames of SparseCtrl: as many as diffusers' own example has
RESIDUALS = ("down_block_additional_residuals", "mid_block_additional_residual")
FREE_INIT_COPIES = 22  # of latents in float32, while FreeInit mixes their frequencies with noise
FREE_INIT = "free_init_rounds"  # of a subject's settings, how often it denoises
FREE_NOISE = "free_noise"  # of a subject's settings, whether it is on


def phases_of(subject: Subject, job: Job, batch: int, scale: int) -> tuple[Phase, ...]:
    """Return the phases of a pipeline. batch: samples in one call of the denoiser. scale: pixels of a latent one.

    Raises UnsupportedError where something about the pipeline makes it take more than would be predicted.
    """
    _check(subject)
    call = _Call(subject, job, batch, scale)
    CALLS[subject.pipeline](call)
    return tuple(call.phases)


def _check(subject: Subject) -> None:
    if subject.pipeline not in CALLS:
        raise UnsupportedError(f"The cost of {subject.pipeline} is not known beforehand.")
    if subject.settings.get(FREE_NOISE):
        raise UnsupportedError("What FreeNoise takes is not known beforehand; apply a plan by hand, or disable it.")
    widens = subject.pipeline == "AnimateDiffSDXLPipeline" and subject.configs["vae"].get("force_upcast", True)
    if widens and subject.dtype == torch.float16:
        raise UnsupportedError(
            "This pipeline widens parts of its decoder to float32, which is not known beforehand; use bfloat16, or an "
            "autoencoder made for float16."
        )


class _Call:
    """A pipeline's call, written down in the order in which it is made.

    held: bytes of what was made so far and is kept until the call returns.
    """

    def __init__(self, subject: Subject, job: Job, batch: int, scale: int) -> None:
        self.subject, self.batch, self.frames = subject, batch, job.num_frames
        self.configs, self.dtype = subject.configs, subject.dtype
        self.sizes = Sizes.of(subject, job, scale)
        self.height, self.width = job.height, job.width
        self.latent_size = (job.height // scale, job.width // scale)
        sequence = getattr(diffusers, subject.pipeline).model_cpu_offload_seq
        self.offload = ModelOffload(sequence, subject.configs)
        self.phases: list[Phase] = []
        self.held = 0

    def text(self) -> None:
        """encode_prompt: each encoder reads the prompt, then with guidance the negative one."""
        encoders = [part for part in ("text_encoder", "text_encoder_2") if part in self.configs]
        hidden = {"output_hidden_states": True} if "text_encoder_2" in self.configs else {}

        def prompt(network: nn.Module) -> dict[str, Any]:
            return {"input_ids": torch.zeros(1, self.subject.tokens, dtype=torch.long), **hidden}

        for _ in range(self.batch):
            resident = {part: self.offload.call(part) for part in encoders}
        for index, part in enumerate(encoders):
            name = "encode text" if index == 0 else f"encode text {index + 1}"
            self._call(name, Called(part, prompt), resident[part], times=self.batch)
        # For every frame, and the negative one once more.
        width = self.configs["unet"]["cross_attention_dim"]
        self.held += self.batch * (self.frames + 1) * self.subject.tokens * width * self.sizes.itemsize

    def video(self) -> None:
        """encode_video: in float32 where its autoencoder says so."""
        dtype = torch.float32 if self.configs["vae"].get("force_upcast", True) else self.dtype
        self.held += self.sizes.numbers * self.sizes.itemsize
        cast = self.sizes.numbers * dtype.itemsize if dtype != self.dtype else 0
        more, times = cast + self.sizes.latents, -(-self.frames // CHUNK)
        self._encode("encode video", min(self.frames, CHUNK), times, dtype, more)

    def picture(self) -> None:
        """prepare_masked_condition: the first frame, and for every frame a mask and the picture's latents."""
        latents = self.sizes.latents
        self._encode("encode image", 1, 1, self.dtype, latents + self.sizes.picture * self.sizes.itemsize // 4)
        self.held += self.batch * (latents + latents // self._channels)

    def controlnet(self) -> Called:
        """prepare_video (or prepare_conditioning_frames): one picture a frame, for both halves of guidance."""
        rows, (height, width) = self.batch * self.frames, self.latent_size
        config = self.configs["controlnet"]
        count = len(config["nets"]) if "nets" in config else 1
        self.held += count * self.batch * self.sizes.numbers * self.sizes.itemsize

        def example(network: nn.Module) -> dict[str, Any]:
            frames = torch.zeros(rows, 3, self.height, self.width, dtype=self.dtype)
            several = "nets" in config
            return {
                "sample": torch.zeros(rows, self._channels, height, width, dtype=self.dtype),
                "controlnet_cond": [frames.clone() for _ in range(count)] if several else frames,
                "conditioning_scale": [1.0] * count if several else 1.0,
                **self._control(),
            }

        return Called("controlnet", example, pixels=rows * height * width, gives=RESIDUALS)

    def sparse_controlnet(self) -> Called:
        """prepare_image and prepare_sparse_control_conditioning: few pictures, and for every frame a mask."""
        config, (height, width) = self.configs["controlnet"], self.latent_size
        count, channels = min(self.frames, SPARSE_FRAMES), self._channels
        if config["use_simplified_condition_embedding"]:
            pictures = count * self.sizes.numbers // self.frames * self.sizes.itemsize
            self._encode("encode images", count, 1, self.dtype, pictures)
        else:
            height, width, channels = self.height, self.width, 3
        plane = height * width * self.sizes.itemsize
        self.held += count * channels * plane + self.frames * (channels + 1) * plane

        def example(network: nn.Module) -> dict[str, Any]:
            size = (self.frames, height, width)
            return {
                "sample": torch.zeros(self.batch, self._channels, self.frames, *self.latent_size, dtype=self.dtype),
                "controlnet_cond": torch.zeros(1, channels, *size, dtype=self.dtype),
                "conditioning_mask": torch.zeros(1, 1, *size, dtype=self.dtype),
                "conditioning_scale": 1.0,
                **self._control(),
            }

        return Called("controlnet", example, pixels=self.frames * height * width, gives=RESIDUALS)

    def denoise(self, inputs: int, beside: Called | None = None) -> None:
        """The loop. inputs: bytes of what a step makes of the latents for its networks, for one sample."""
        model_input = self.batch * inputs
        self.held = self.sizes.loop(self.held + self.sizes.latents, model_input, self.batch)
        rounds = self.subject.settings.get(FREE_INIT, 1)
        if rounds > 1:
            self.held += 2 * self.sizes.latents  # the first round's noise, and new latents as complex numbers
        if beside is not None:
            self.offload.call(beside.part)
        held = self.sizes.denoise(self.held, model_input)
        resident = self.offload.call("unet")
        self.phases.append(
            Phase("denoise", "denoise", held, resident, rounds, self.frames, beside=beside, results=STEPS_HELD)
        )
        if rounds > 1:
            filtering = FREE_INIT_COPIES * self.sizes.latents * FLOAT32 // self.sizes.itemsize
            self.phases.append(Phase("filter noise", "export", self.held + filtering, resident))

    def decode(self, chunk: int | None = None) -> None:
        """decode_latents, and what makes pictures of its result. chunk: frames at a time; None for all of them."""
        chunk = min(self.frames, chunk or self.frames)
        times = -(-self.frames // chunk)
        held = self.held + self.sizes.latents  # scaled for the decoder
        # Frames decoded before, at the last full chunk; a shorter one after it has more of them, but makes fewer.
        held += (self.frames - chunk) * self.sizes.numbers // self.frames * self.sizes.itemsize
        if self.configs["vae"].get("use_post_quant_conv", True):  # makes others
            held += self.sizes.latents * chunk // self.frames
        resident = self.offload.call("vae")
        self.phases.append(Phase("decode", "decode", held, resident, times, chunk))
        self.phases.append(Phase("export", "export", self.sizes.export(self.held), resident))

    @property
    def _channels(self) -> int:
        return self.configs["vae"].get("latent_channels", 4)

    def _control(self) -> dict[str, Any]:
        """What every ControlNet is given."""
        width = self.configs["unet"]["cross_attention_dim"]
        text = torch.zeros(self.batch * self.frames, self.subject.tokens, width, dtype=self.dtype)
        return {"timestep": torch.tensor(0), "encoder_hidden_states": text, "guess_mode": False, "return_dict": False}

    def _encode(self, name: str, pictures: int, times: int, dtype: torch.dtype, more: int) -> None:
        """Pictures to latents. more: bytes that are held meanwhile beside what stays."""

        def given(network: nn.Module) -> dict[str, Any]:
            return {"sample": torch.zeros(pictures, 3, self.height, self.width, dtype=dtype)}

        called = Called("vae", given, "encoder", dtype, pictures * self.height * self.width)
        self._call(name, called, self.offload.call("vae"), times, more)

    def _call(self, name: str, called: Called, resident: tuple[str, ...], times: int = 1, more: int = 0) -> None:
        self.phases.append(Phase(name, "call", self.held + more, resident, times, called=called))


def _text_to_video(call: _Call) -> None:
    call.text()
    call.denoise(call.sizes.latents)
    call.decode(CHUNK)


def _controlled(call: _Call) -> None:
    call.text()
    call.denoise(2 * call.sizes.latents, call.controlnet())  # the ControlNet's by themselves, frame by frame
    call.decode(CHUNK)


def _sparsely_controlled(call: _Call) -> None:
    call.text()
    call.denoise(call.sizes.latents, call.sparse_controlnet())
    call.decode()


def _video_to_video(call: _Call) -> None:
    call.video()
    _text_to_video(call)


def _controlled_video_to_video(call: _Call) -> None:
    call.video()
    _controlled(call)


def _text_to_video_xl(call: _Call) -> None:
    call.text()
    call.denoise(call.sizes.latents)
    call.decode()


def _personalized(call: _Call) -> None:
    call.text()
    call.picture()
    latents = call.sizes.latents
    call.denoise(2 * latents + latents // call.configs["vae"].get("latent_channels", 4))
    call.decode()


CALLS: dict[str, Callable[[_Call], None]] = {
    "AnimateDiffPipeline": _text_to_video,
    "AnimateDiffControlNetPipeline": _controlled,
    "AnimateDiffSparseControlNetPipeline": _sparsely_controlled,
    "AnimateDiffVideoToVideoPipeline": _video_to_video,
    "AnimateDiffVideoToVideoControlNetPipeline": _controlled_video_to_video,
    "AnimateDiffSDXLPipeline": _text_to_video_xl,
    "PIAPipeline": _personalized,
}
