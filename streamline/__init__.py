"""Streamlined Inference for video diffusion: the same video within a memory budget."""

import logging

# diffusers asks transformers for image processors by names that prefer torchvision; the PIL ones are meant.
logging.getLogger("transformers.utils.import_utils").setLevel(logging.ERROR)

from .applying.apply import Applied, apply, is_applied  # noqa: E402
from .applying.fallback import PlanDowngraded  # noqa: E402
from .applying.hooks import Hooks  # noqa: E402
from .cache import cache_folder  # noqa: E402
from .cost.tracing import Trace, trace  # noqa: E402
from .doctor import Finding, examine  # noqa: E402
from .errors import (  # noqa: E402
    Cancelled,
    DeviceError,
    InputError,
    ModelError,
    OutOfMemory,
    PlanError,
    StreamlineError,
    UnsupportedError,
)
from .families.base import Family, Half, Model  # noqa: E402
from .families.building import job_for  # noqa: E402
from .families.naming import all_halves, models  # noqa: E402
from .fields import COMMON as COMMON_FIELDS  # noqa: E402
from .fields import Field  # noqa: E402
from .files import clear_temporary_files, temporary_path  # noqa: E402
from .hardware.cards import CARDS, emulate  # noqa: E402
from .hardware.detection import default_budget, detect, detect_all  # noqa: E402
from .hardware.device import Device  # noqa: E402
from .hardware.live_tensors import LiveTensors  # noqa: E402
from .hardware.rates import Rates, rates_of  # noqa: E402
from .job import Job  # noqa: E402
from .models.loading import load, place  # noqa: E402
from .models.previews import preview  # noqa: E402
from .output.comparison_report import report_html  # noqa: E402
from .output.metrics import psnr, ssim  # noqa: E402
from .output.receipt import Fidelity, Measured, Predicted, Receipt  # noqa: E402
from .output.receipt_files import read_receipt  # noqa: E402
from .output.video import contact_sheet, export  # noqa: E402
from .plan import Plan, Rehash, Slicing  # noqa: E402
from .planning.tuning import Forecast, forecast, frontier, predict, tune  # noqa: E402
from .prediction import (  # noqa: E402
    BudgetError,
    Candidate,
    Prediction,
    StagePrediction,
)
from .registry import families as _families  # noqa: E402
from .registry import family_of, own_fields, register_family  # noqa: E402
from .running.events import Decoding, Finished, Result, Started, Step  # noqa: E402
from .running.naive import run_naive  # noqa: E402
from .running.run import run  # noqa: E402
from .running.watching import Disturbed  # noqa: E402
from .sampler import Sampler  # noqa: E402
from .sizes import parse_bytes  # noqa: E402
from .source import Source  # noqa: E402


def __getattr__(name: str) -> object:
    """FAMILIES, and MODELS with a name: all there are, those that were registered since among them."""
    if name == "FAMILIES":
        return _families()
    if name == "MODELS":
        return models()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


Tightened = PlanDowngraded  # its name until now, for one version more
clear_drafts, draft_of = clear_temporary_files, temporary_path  # likewise

__all__ = [
    "CARDS",
    "COMMON_FIELDS",
    "FAMILIES",
    "MODELS",
    "Applied",
    "BudgetError",
    "Cancelled",
    "Candidate",
    "Decoding",
    "Device",
    "DeviceError",
    "Disturbed",
    "Family",
    "Fidelity",
    "Field",
    "Finding",
    "Finished",
    "Forecast",
    "Half",
    "Hooks",
    "InputError",
    "Job",
    "LiveTensors",
    "Measured",
    "Model",
    "ModelError",
    "OutOfMemory",
    "Plan",
    "PlanDowngraded",
    "PlanError",
    "Predicted",
    "Prediction",
    "Rates",
    "Receipt",
    "Rehash",
    "Result",
    "Sampler",
    "Slicing",
    "Source",
    "StagePrediction",
    "Started",
    "Step",
    "StreamlineError",
    "Tightened",
    "Trace",
    "UnsupportedError",
    "all_halves",
    "apply",
    "cache_folder",
    "clear_drafts",
    "clear_temporary_files",
    "contact_sheet",
    "default_budget",
    "detect",
    "detect_all",
    "draft_of",
    "emulate",
    "examine",
    "export",
    "family_of",
    "forecast",
    "frontier",
    "is_applied",
    "job_for",
    "load",
    "own_fields",
    "parse_bytes",
    "place",
    "predict",
    "preview",
    "psnr",
    "rates_of",
    "read_receipt",
    "register_family",
    "report_html",
    "run",
    "run_naive",
    "ssim",
    "temporary_path",
    "trace",
    "tune",
]
