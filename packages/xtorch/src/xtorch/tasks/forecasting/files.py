"""A trained forecaster on disk: ``model.safetensors``, ``model.json`` and ``task.json``.

The formats are those of ARCHITECTURE.md, 10.3 and 10.4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtorch.models.forecast_ensemble import EnsembleConfig, ForecastEnsemble
from xtorch.tasks.saved import load_weights, save_weights


def save_model(model: ForecastEnsemble, folder: Path) -> None:
    """Writes ``model.safetensors`` and ``model.json``."""
    save_weights(model, folder, model.config.to_dict())


def load_model(folder: str | Path) -> ForecastEnsemble:
    """Rebuilds the torch model of a training output, in evaluation mode; see `ForecastEnsemble`.

    Raises:
        WeightsError: A file is missing, or the two do not fit each other.
    """
    return load_weights(
        folder, ForecastEnsemble, lambda config: ForecastEnsemble(EnsembleConfig.from_dict(config))
    )


def task_spec(config: EnsembleConfig) -> dict[str, Any]:
    """The task spec of `xinfer.tasks.forecast`."""
    return {
        "task": "forecast",
        "version": 1,
        "input": {
            "name": "history",
            "kind": "series",
            "length": config.length,
            "mask": "observed",
            "gaps": "last",
            "scaling": "mean_abs",
            "min_observed": min(2, config.length),
        },
        "outputs": {"forecast": "forecast"},
        "horizon": config.horizon,
        "quantiles": list(config.quantiles),
        "lower": config.lower,
        "upper": None,
        "metric": "negative_mase",
    }
