"""Image classification: which of your classes does a picture show?

A recipe as `xtorch.tasks.recipe` describes it; besides, `load_model` rebuilds the torch model of a training
output, and `naive_predict` is the plain torch pipeline that engines are compared with.
"""

from __future__ import annotations

import importlib
from typing import Any

TEMPLATE = "image-classification"

_LAZY = {
    "ClassificationSettings": "xtorch.tasks.classification.settings:ClassificationSettings",
    "build_inputs": "xtorch.tasks.classification.judge:build_inputs",
    "check": "xtorch.data.check_classification:check",
    "load_model": "xtorch.tasks.classification.files:load_model",
    "naive_predict": "xtorch.tasks.classification.files:naive_predict",
    "run": "xtorch.tasks.classification.recipe:run",
}

__all__ = [
    "TEMPLATE",
    "ClassificationSettings",
    "build_inputs",
    "check",
    "load_model",
    "naive_predict",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, member = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), member)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
