"""Step Rehash (paper section 3.4): where a feature is kept, and which steps compute it.

Where: at the last concatenation of the last up block, whose skip connection comes from the first convolution. On
a step that reuses what is joined there, the down path, the middle and all but the last layer of the up path are
dead code, and the last layer still sees the step's own latents.
"""

from __future__ import annotations

from .errors import UnsupportedError
from .program import Program

EVERY = {"exact": 1, "balanced": 2, "fast": 3}  # of so many steps, one is computed in full


def schedule(quality: str, steps: int) -> tuple[int, ...]:
    """The steps computed in full, the first and the last among them.

    Evenly spaced: "balanced" is every second step (13 of 25, as many as the paper's), "fast" every third (9 of 25).
    """
    return tuple(sorted({*range(0, steps, EVERY[quality]), steps - 1}))


def find_cut(program: Program) -> str:
    """The value that is kept: the last one of an up block from which the rest follows without down or middle blocks.

    Raises UnsupportedError for a network that has none.
    """
    for stage in reversed(program.stages):
        if not stage.block.startswith("up."):
            continue
        rest = program.bind([stage.name])
        if set(rest.inputs) == {*program.inputs, stage.name} and not any(_is_before(s.block) for s in rest.stages):
            return stage.name
    raise UnsupportedError("This network has no point at which a step could reuse what the step before computed.")


def _is_before(block: str) -> bool:
    return block == "mid" or block.startswith("down.")
