"""Model families, a folder each: how their networks become programs, and what their pipelines do around them.

A family is one folder and one line here. Families that do not ship register themselves (streamline/registry.py).
"""

from ..registry import register_family
from .animatediff import FAMILY as ANIMATEDIFF
from .svd import FAMILY as SVD

for _family in (ANIMATEDIFF, SVD):
    register_family(_family)
