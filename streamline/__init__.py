"""Streamlined Inference for video diffusion: the same video within a memory budget."""

import logging

# diffusers asks transformers for image processors by names that prefer torchvision; the PIL ones are meant.
logging.getLogger("transformers.utils.import_utils").setLevel(logging.ERROR)

from .apply import Applied, apply, is_applied  # noqa: E402
from .catalog import MODELS, Model, load  # noqa: E402
from .errors import InputError, ModelError, OutOfMemory, PlanError, StreamlineError, UnsupportedError  # noqa: E402
from .job import Job  # noqa: E402
from .live_tensors import LiveTensors  # noqa: E402
from .naive import run_naive  # noqa: E402
from .plan import Plan, Slicing  # noqa: E402
from .runner import Decoding, Finished, Result, Started, Step, run  # noqa: E402
from .tracing import Trace, trace  # noqa: E402
from .video import contact_sheet, export  # noqa: E402

__all__ = [
    "MODELS",
    "Applied",
    "Decoding",
    "Finished",
    "InputError",
    "Job",
    "LiveTensors",
    "Model",
    "ModelError",
    "OutOfMemory",
    "Plan",
    "PlanError",
    "Result",
    "Slicing",
    "Started",
    "Step",
    "StreamlineError",
    "Trace",
    "UnsupportedError",
    "apply",
    "contact_sheet",
    "export",
    "is_applied",
    "load",
    "run",
    "run_naive",
    "trace",
]
