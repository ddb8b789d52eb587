"""Streamlined Inference for video diffusion: the same video within a memory budget."""

from .apply import Applied, apply
from .errors import InputError, ModelError, PlanError, StreamlineError, UnsupportedError
from .plan import Plan, Slicing

__all__ = [
    "Applied",
    "InputError",
    "ModelError",
    "Plan",
    "PlanError",
    "Slicing",
    "StreamlineError",
    "UnsupportedError",
    "apply",
]
