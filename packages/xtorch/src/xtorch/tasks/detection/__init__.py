"""Object detection: learn from images with boxes to find what is where.

A recipe as `xtorch.tasks.recipe` describes it; besides, `load_model` rebuilds the torch model of a training
output.
"""

from __future__ import annotations

import importlib
from typing import Any

TEMPLATE = "object-detection"

_LAZY = {
    "DetectionSettings": "xtorch.tasks.detection.settings:DetectionSettings",
    "build_inputs": "xtorch.tasks.detection.judge:build_inputs",
    "check": "xtorch.data.check_detection:check",
    "load_model": "xtorch.tasks.detection.files:load_model",
    "run": "xtorch.tasks.detection.recipe:run",
}

__all__ = ["TEMPLATE", "DetectionSettings", "build_inputs", "check", "load_model", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, member = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), member)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
