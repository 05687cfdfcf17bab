"""The `train` job: a template's recipe on a dataset."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ignition_client.errors import InputError
from ignition_client.jobs.runner import JobContext
from ignition_client.wire import TrainResult, TrainSpec

RECIPES = {
    "visual-anomaly-detection": "xtorch.tasks.anomaly",
    "object-detection": "xtorch.tasks.detection",
    "text-classification": "xtorch.tasks.text",
    "sales-forecasting": "xtorch.tasks.forecasting",
    "image-classification": "xtorch.tasks.classification",
    "image-segmentation": "xtorch.tasks.segmentation",
}
"""Template id -> the recipe's module (ARCHITECTURE.md, 10.3)."""


def recipe_module(template: str) -> Any:
    """The recipe's module.

    Raises:
        InputError: This agent does not know the template.
    """
    name = RECIPES.get(template)
    if name is not None:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            # What the recipe itself needs and misses is another problem.
            if error.name != name:
                raise
    raise InputError(
        f"This agent does not know the template '{template}'.",
        code="job.unknown_template",
        value=template,
        hint="Update the agent: pip install -U 'ignition-client[agent]'.",
    )


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
