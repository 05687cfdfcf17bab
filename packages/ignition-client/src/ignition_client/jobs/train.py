"""The `train` job: a template's recipe on a dataset."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ignition_client.errors import InputError
from ignition_client.jobs.runner import JobContext
from ignition_client.wire import TrainResult, TrainSpec

RECIPES = {"visual-anomaly-detection": "xtorch.tasks.anomaly"}
"""Template id -> module with ``run``, ``load_model`` and ``naive_predict``."""


def recipe_module(template: str) -> Any:
    """The recipe's module.

    Raises:
        InputError: This agent does not know the template.
    """
    try:
        return import_module(RECIPES[template])
    except KeyError:
        raise InputError(
            "This agent does not know the template.",
            code="job.unknown_template",
            value=template,
            hint="Update the agent: pip install -U 'ignition-client[agent]'.",
        ) from None


def run(context: JobContext) -> dict[str, Any]:
    """
    Returns:
        A `wire.TrainResult`.
    """
    spec = TrainSpec.model_validate(context.job.spec)
    result = recipe_module(spec.template).run(
        context.inputs / "dataset",
        context.outputs,
        name=spec.name,
        budget_s=spec.budget_s,
        seed=spec.seed,
        settings=spec.settings,
        progress=context.progress,
        cache_dir=context.job.cache_dir,
    )
    return TrainResult.model_validate(result).model_dump(mode="json")
