"""Know the cost before a run: `predict` what a plan takes, `tune` a plan to a budget, draw the `frontier`.

All of them ask a `forecast`, which is kept by who asks again and again.

A model is a pipeline that is loaded, or a name: published models are planned without their weights, any other is
loaded first. A device is one that is here, by torch's name for it, or an emulated card: `device=emulate("8GiB")`.
"""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline

from ..job import Job
from ..plan import Plan
from ..prediction import Candidate, Prediction
from .forecasting import Forecast, Where
from .speeding import Quality

forecast = Forecast.of


def tune(
    model: DiffusionPipeline | str,
    job: Job,
    budget: str | int | None = None,
    quality: Quality = "exact",
    device: Where = None,
    dtype: torch.dtype | None = None,
) -> Plan:
    """Return the fastest plan that keeps within a budget, with the reason for every choice.

    budget: "8GiB", or bytes, of all that the process holds on the device; None takes what is free there.
    quality: "exact" gives the same video as diffusers; "balanced" may take as long as the paper's rehash, "fast" half
        as long as the original, and both lose as little by it as the model's calibration knows how (speeding.py).
    device: where it will run; by default where the pipeline is, else the best that is here.
    dtype: of the weights of a model given by name; by default as `load` would have it.

    Raises BudgetError, which names the smallest budget that would do and jobs that fit, when nothing fits;
    InputError for a budget or a quality that makes no sense; UnsupportedError for pipelines without a cost model.
    """
    return forecast(model, job, quality, device, dtype).choose(budget).plan


def predict(
    model: DiffusionPipeline | str,
    job: Job,
    plan: Plan,
    device: Where = None,
    dtype: torch.dtype | None = None,
) -> Prediction:
    """Return what a run by a plan will take, stage by stage; arguments and errors as for `tune`."""
    return forecast(model, job, device=device, dtype=dtype).predict(plan)


def frontier(
    model: DiffusionPipeline | str,
    job: Job,
    quality: Quality = "exact",
    device: Where = None,
    dtype: torch.dtype | None = None,
) -> tuple[Candidate, ...]:
    """Return time against memory: every plan worth choosing, from the fastest to the smallest, as for `tune`."""
    return forecast(model, job, quality, device, dtype).frontier()
