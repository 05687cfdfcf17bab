"""Anomaly detection: learn what good looks like, find what does not.

`run` trains on a folder of images, `load_model` rebuilds the torch model of a training output, and
`naive_predict` is the plain torch pipeline that engines are compared with.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "AnomalySettings": "xtorch.tasks.anomaly.recipe",
    "load_model": "xtorch.tasks.anomaly.files",
    "naive_predict": "xtorch.tasks.anomaly.files",
    "run": "xtorch.tasks.anomaly.recipe",
}

__all__ = ["AnomalySettings", "load_model", "naive_predict", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
