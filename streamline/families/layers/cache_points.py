"""Where a step of a UNet may take over what the step before computed: named points of its program.

Step Rehash (paper section 3.4) keeps one value and drops every stage that leads to it. All of these lie after temporal
layers of the up path, and the later one lies, the less is left to compute and the less the step sees of its own:

    deepcache   what goes into the last concatenation but one of the last up block. The first layer of the down path,
                the last two layers and the output are left. (Ma et al., DeepCache, arXiv 2312.00858, keep it there.)
    last-layer  what goes into the last concatenation. The first convolution, the last layer and the output are left.
    paper       what comes out of the last concatenation: the last layer and the output are left, and the step's own
                latents are seen no more, only its noise level.

The network's output, after which nothing is left, is a point of every program ("prediction").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...program.stages import Stage


def unet_cache_points(stages: Sequence[Stage]) -> dict[str, str]:
    """Return the cache points of a UNet whose concatenations are named up.N.join.M; none where it has too few."""
    joins = [stage for stage in stages if re.fullmatch(r"up\.\d+\.join\.\d+", stage.name)]
    joins = [stage for stage in joins if stage.block == joins[-1].block]
    if len(joins) < 2:
        return {}
    return {"deepcache": joins[-2].reads[0], "last-layer": joins[-1].reads[0], "paper": joins[-1].name}
