"""What a pipeline's own tensors take around its networks, as diffusers 0.42 holds them, in bytes.

A pipeline's call keeps its local variables until it returns: the picture it started from, the latents, the last
prediction and the embeddings are alive while the decoder runs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ...job import Job
from ..subject import Subject

FLOAT32 = 4
# Of how many steps a step's results are there while the next one's denoiser runs. For its callback the loop calls
# locals(), which keeps all that a step has made until it is called again.
STEPS_HELD = 2 if sys.version_info < (3, 13) else 1


@dataclass(frozen=True)
class Sizes:
    """Sizes of what every pipeline holds, in bytes but for the last two.

    latents: of one video. picture: of one frame in float32. numbers: of all frames' pixels. itemsize: of one number.
    """

    latents: int
    picture: int
    numbers: int
    itemsize: int

    @classmethod
    def of(cls, subject: Subject, job: Job, scale: int) -> Sizes:
        channels = subject.configs["vae"].get("latent_channels", 4)
        itemsize = subject.dtype.itemsize
        latents = job.num_frames * channels * (job.height // scale) * (job.width // scale) * itemsize
        pixels = 3 * job.height * job.width
        return cls(latents, pixels * FLOAT32, pixels * job.num_frames, itemsize)

    def loop(self, around: int, model_input: int, batch: int) -> int:
        """Return what is alive in a step. around: embeddings and latents. model_input: what the denoiser is given."""
        # The prediction is kept as the two halves it came as, and as guided; it is replaced a step later.
        prediction = self.latents * (batch + 1 if batch > 1 else 1)
        return around + model_input + prediction

    def denoise(self, loop: int, model_input: int) -> int:
        """Return what is alive while the denoiser runs, from the second step on."""
        return loop + (STEPS_HELD - 1) * model_input

    def export(self, loop: int) -> int:
        """Return what is alive while decoded frames are joined, cast to float32, scaled and stacked."""
        casting = self.numbers * (2 * self.itemsize + (FLOAT32 if self.itemsize < FLOAT32 else 0))
        return loop + max(casting, 3 * self.numbers * FLOAT32)
