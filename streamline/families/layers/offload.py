"""Which networks are on the device when, by diffusers' enable_model_cpu_offload."""

from __future__ import annotations

from collections.abc import Iterable


class ModelOffload:
    """Follows a pipeline's calls: each brings a network, and takes away the one before it in the pipeline's sequence.

    What is not called takes nothing away, and what is not in the sequence stays once it has come.
    """

    def __init__(self, sequence: str, parts: Iterable[str]) -> None:
        """sequence: the pipeline's model_cpu_offload_seq. parts: the components that it has."""
        known = set(parts)
        chain = [part for part in sequence.split("->") if part in known]
        self._before = dict(zip(chain[1:], chain, strict=False))
        self.resident: tuple[str, ...] = ()

    def call(self, part: str) -> tuple[str, ...]:
        """Return the components that are there once one is called."""
        stay = (one for one in self.resident if one not in (part, self._before.get(part)))
        self.resident = (*stay, part)
        return self.resident
