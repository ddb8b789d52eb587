"""Where a step may take over what the step before computed: named points of a denoiser's program.

Step Rehash (paper section 3.4) keeps one value and drops every stage that leads to it. All of these lie after temporal
layers of the up path, and the later one lies, the less is left to compute and the less the step sees of its own:

    deepcache   what goes into the last concatenation but one of the last up block. The first layer of the down path,
                the last two layers and the output are left. (Ma et al., DeepCache, arXiv 2312.00858, keep it there.)
    last-layer  what goes into the last concatenation. The first convolution, the last layer and the output are left.
    paper       what comes out of the last concatenation: the last layer and the output are left, and the step's own
                latents are seen no more, only its noise level.
    prediction  the network's output: nothing is left.
"""

from __future__ import annotations

import re

from ...errors import PlanError, UnsupportedError
from ...program.stages import Program

CUTS = ("deepcache", "last-layer", "paper", "prediction")


def find_cut(program: Program, cut: str = "last-layer") -> str:
    """The value of a program that a cut keeps: one of CUTS, or a value that is named itself.

    Raises PlanError for a value that is not there, UnsupportedError for a network without such a place.
    """
    if cut == "prediction":
        return program.output
    if cut not in CUTS:
        if cut not in {stage.name for stage in program.stages}:
            raise PlanError(f"The plan's rehash cuts at {cut!r}, which this network does not have.")
        return cut
    joins = [stage for stage in program.stages if re.fullmatch(r"up\.\d+\.join\.\d+", stage.name)]
    joins = [stage for stage in joins if stage.block == joins[-1].block]
    if len(joins) < 2:
        raise UnsupportedError("This network has no point at which a step could reuse what the step before computed.")
    if cut == "paper":
        return joins[-1].name
    return joins[-1 if cut == "last-layer" else -2].reads[0]
