"""Image segmentation: learn from images with masks which pixel shows what.

A recipe as `xtorch.tasks.recipe` describes it; besides, `load_model` rebuilds the torch model of a training
output.
"""

from __future__ import annotations

import importlib
from typing import Any

TEMPLATE = "image-segmentation"

_LAZY = {
    "SegmentationSettings": "xtorch.tasks.segmentation.settings:SegmentationSettings",
    "build_inputs": "xtorch.tasks.segmentation.judge:build_inputs",
    "check": "xtorch.data.check_segmentation:check",
    "load_model": "xtorch.tasks.segmentation.files:load_model",
    "run": "xtorch.tasks.segmentation.recipe:run",
}

__all__ = ["TEMPLATE", "SegmentationSettings", "build_inputs", "check", "load_model", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, member = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), member)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
