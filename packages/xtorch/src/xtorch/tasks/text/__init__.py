"""Text classification: one label a text, or any number of them.

A recipe as `xtorch.tasks.recipe` describes it; besides, `load_model` rebuilds the torch model of a training
output, and `NaivePipeline` is the plain torch pipeline that engines are compared with.
"""

from __future__ import annotations

import importlib
from typing import Any

TEMPLATE = "text-classification"

_LAZY = {
    "NaivePipeline": "xtorch.tasks.text.files:NaivePipeline",
    "TextSettings": "xtorch.tasks.text.settings:TextSettings",
    "build_inputs": "xtorch.tasks.text.judge:build_inputs",
    "check": "xtorch.data.check_text:check_texts",
    "load_model": "xtorch.tasks.text.files:load_model",
    "run": "xtorch.tasks.text.recipe:run",
}

__all__ = ["TEMPLATE", "NaivePipeline", "TextSettings", "build_inputs", "check", "load_model", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, member = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), member)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
