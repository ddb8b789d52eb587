"""What a pipeline's model and schedule are called, so that what was measured of them is found again."""

from __future__ import annotations

from pathlib import Path

from diffusers import DiffusionPipeline, SchedulerMixin

from .catalog import model_of

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
