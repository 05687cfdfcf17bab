"""A trained forecaster on disk: ``model.safetensors``, ``model.json`` and ``task.json``.

The formats are those of ARCHITECTURE.md, 10.3 and 10.4.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from xtorch.errors import WeightsError
from xtorch.models.forecast_ensemble import EnsembleConfig, ForecastEnsemble
from xtorch.tasks.recipe import write_json

_ARCHITECTURE = "xtorch.models.forecast_ensemble.ForecastEnsemble"


def save_model(model: ForecastEnsemble, folder: Path) -> None:
    """Writes ``model.safetensors`` and ``model.json``."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(state))
    write_json(folder / "model.json", {"architecture": _ARCHITECTURE, "config": model.config.to_dict()})


def load_model(folder: str | Path) -> ForecastEnsemble:
    """Rebuilds the torch model of a training output, in evaluation mode; see `ForecastEnsemble`.

    Raises:
        WeightsError: A file is missing, or the two do not fit each other.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if described["architecture"] != _ARCHITECTURE:
            raise WeightsError("model.json names another architecture.", value=described["architecture"])
        model = ForecastEnsemble(EnsembleConfig.from_dict(described["config"]))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"The model cannot be loaded: {error}",
            value=folder.name,
            hint="the folder must be the output of a training run of this or an older version",
        ) from error
    return model.eval().requires_grad_(False)


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
