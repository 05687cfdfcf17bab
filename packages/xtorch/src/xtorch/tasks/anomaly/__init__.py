"""Anomaly detection: learn what good looks like, find what does not.

A recipe as `xtorch.tasks.recipe` describes it; besides, `load_model` rebuilds the torch model of a training
output, and `naive_predict` is the plain torch pipeline that engines are compared with.
"""

from __future__ import annotations

import importlib
from typing import Any

TEMPLATE = "visual-anomaly-detection"

_LAZY = {
    "AnomalySettings": "xtorch.tasks.anomaly.settings:AnomalySettings",
    "build_inputs": "xtorch.tasks.anomaly.judge:build_inputs",
    "check": "xtorch.data.check:check_image_folder",
    "load_model": "xtorch.tasks.anomaly.files:load_model",
    "naive_predict": "xtorch.tasks.anomaly.files:naive_predict",
    "run": "xtorch.tasks.anomaly.recipe:run",
}

__all__ = ["TEMPLATE", "AnomalySettings", "build_inputs", "check", "load_model", "naive_predict", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, member = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), member)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
