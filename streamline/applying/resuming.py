"""A pipeline that is called again goes on where it was: nothing that was denoised is denoised twice.

Memory also runs out where no call of a network can be made again: in the scheduler, between two steps, while the
frames are put together. The whole pipeline can be called again there, and a run is the same each time for the same
seed. Until it is back where it was, the denoiser is passed over and its steps come to nothing; then the latents and the
scheduler are those that were kept, which are alive at that moment anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.utils._pytree import tree_map_only

PNDM_SUM = "cur_model_output"  # of PNDMScheduler's first steps, added to in place


class Checkpoint:
    """How far one run of a pipeline has come.

    steps: how many are done. calls of the denoiser and the ends of steps are to be told to `call` and `step_done`.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._scheduler = pipe.scheduler
        self._device = pipe._execution_device
        self._random = _random_states(self._device)
        self.steps = 0
        self._calls = 0  # of the denoiser in these steps
        self._since: list[object] = []  # what it returned since
        self._blank: object = None  # of the same shape, but a single number
        self._latents: Tensor | None = None
        self._state: dict[str, object] = {}
        self._called = self._ended = 0  # since the pipeline was called

    @property
    def is_behind(self) -> bool:
        """Return whether the step that is about to end was done before."""
        return self._ended < self.steps

    def call(self, run: Callable[..., object], *args: object, **kwargs: object) -> object:
        """Return run(*args, **kwargs), or what it returned before; blanks for a step that is done."""
        if self._called == self.steps == 0 and self._since:
            self._restore()
        elif self._called == self.steps == 0:
            self._state = _copied(vars(self._scheduler))
        index, self._called = self._called - self._calls, self._called + 1
        if index < 0:
            return self._blank
        if index < len(self._since):
            return self._since[index]
        output = run(*args, **kwargs)
        if self._blank is None:
            self._blank = tree_map_only(Tensor, lambda value: value.new_zeros(()).expand(value.shape), output)
        self._since.append(output)
        return output

    def step_done(self, latents: Tensor) -> Tensor:
        """Keep what a step gave, or at the end of one that was done before give what is to go on with."""
        self._ended += 1
        if self._ended < self.steps:
            return latents
        if self._ended == self.steps:
            self._restore()
            return self._latents
        self.steps, self._calls, self._since = self._ended, self._called, []
        self._latents, self._state = latents, _copied(vars(self._scheduler))
        return latents

    def _restore(self) -> None:
        """Let the scheduler be as it was, the very list of timesteps too that a rehash knows its run by."""
        vars(self._scheduler).update(_copied(self._state))

    def again(self) -> None:
        """Start from the beginning: the pipeline is about to be called once more."""
        self._called = self._ended = 0
        for restore, state in self._random:
            restore(state)


def _copied(state: dict[str, object]) -> dict[str, object]:
    """Copy what a scheduler writes into: lists (outputs of earlier steps), and the sum of outputs that PNDM adds to.

    All else is the very same, for a rehash knows its run by the list of timesteps, and copies would take memory.
    """

    def apart(name: str, value: object) -> object:
        if name == PNDM_SUM and isinstance(value, Tensor):
            return value.clone()
        return list(value) if isinstance(value, list) else value

    return {name: apart(name, value) for name, value in state.items()}


def _random_states(device: torch.device) -> list[tuple[Callable[[Tensor], None], Tensor]]:
    """Return the states of the global generators, which FreeInit draws from, and what restores each."""
    states = [(torch.set_rng_state, torch.get_rng_state())]
    if device.type == "cuda":
        states.append((lambda state: torch.cuda.set_rng_state(state, device), torch.cuda.get_rng_state(device)))
    return states
