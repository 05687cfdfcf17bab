"""Sales forecasting: how series go on, and how sure that is.

A recipe as `xtorch.tasks.recipe` describes it; besides, `load_model` rebuilds the torch model of a training
output.
"""

from __future__ import annotations

import importlib
from typing import Any

TEMPLATE = "sales-forecasting"

_LAZY = {
    "ForecastSettings": "xtorch.tasks.forecasting.plan:ForecastSettings",
    "build_inputs": "xtorch.tasks.forecasting.judge:build_inputs",
    "check": "xtorch.data.check_series:check_series",
    "load_model": "xtorch.tasks.forecasting.files:load_model",
    "run": "xtorch.tasks.forecasting.recipe:run",
}

__all__ = ["TEMPLATE", "ForecastSettings", "build_inputs", "check", "load_model", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, member = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), member)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
