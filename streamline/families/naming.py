"""What a pipeline's model and schedule are called, so that what was measured of them is found again."""

from __future__ import annotations

from pathlib import Path

from diffusers import DiffusionPipeline, SchedulerMixin

from ..errors import UnsupportedError
from ..registry import families, family_of
from .base import Half, Model

DEFAULT_MODEL = "tiny-animatediff"  # that makes a video where nobody names another
DEFAULT_PLANNED = "svd"  # that is planned where nobody names another
DEFAULT_BUDGETED = ("svd", "svd-xt", "animatediff")

SCHEDULE = (
    "timestep_spacing",
    "prediction_type",
    "rescale_betas_zero_snr",
    "sigma_max",
    "sigma_min",
    "use_karras_sigmas",
    "solver_order",
    "algorithm_type",
)


def scheduler_key(scheduler: SchedulerMixin) -> str:
    """Names a scheduler and what it does about noise levels."""
    config = scheduler.config
    details = [str(config[name]) for name in SCHEDULE if name in config]
    return " ".join([type(scheduler).__name__, *details])


def name_of(pipe: DiffusionPipeline) -> str:
    """Names a model: by its own name where it has one, else by where it came from."""
    model = model_of(pipe)
    return model.name if model is not None else Path(pipe.name_or_path or type(pipe).__name__).name


def models() -> tuple[Model, ...]:
    """Return all models that can be asked for by name, the small ones first."""
    offered = [model for family in families() for model in family.models if model.is_offered]
    return tuple(sorted(offered, key=lambda model: not model.is_small))


def model_named(name: str) -> Model | None:
    """Return the model of a name, if there is one."""
    return next((model for model in models() if model.name == name), None)


def model_of(pipe: DiffusionPipeline) -> Model | None:
    """Return the model with a name that a pipeline was loaded from; None for another, or a pipeline of no family."""
    try:
        return family_of(pipe).model_of(pipe)
    except UnsupportedError:
        return None


def all_halves() -> dict[str, Half]:
    """Return what may be taken from elsewhere when a model of some family is loaded, by name; the first of a name."""
    return {half.name: half for family in reversed(families()) for half in family.halves}
