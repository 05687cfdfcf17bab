"""xTorch: train, evaluate and export models.

Importing this package imports no torch; what needs it is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from xtorch.errors import (
    CheckpointError,
    DataError,
    ExportError,
    ForeignCheckpointError,
    LayoutError,
    ParityError,
    SampleError,
    SettingsError,
    TooFewImagesError,
    TrainingError,
    WeightsError,
    WorkerError,
    XTorchError,
)

__version__ = "0.1.0"

_LAZY = {
    "Callback": "xtorch.callbacks",
    "Checkpointing": "xtorch.checkpoint",
    "ConsoleLogger": "xtorch.callbacks",
    "DecodeCache": "xtorch.data.decode_cache",
    "EMA": "xtorch.callbacks",
    "EarlyStopping": "xtorch.callbacks",
    "ExtendedDataLoader": "xtorch.data.loader",
    "FeatureCache": "xtorch.data.features",
    "ImageFiles": "xtorch.data.decode",
    "JSONLinesLogger": "xtorch.callbacks",
    "KeepBest": "xtorch.callbacks",
    "StepOutput": "xtorch.trainer",
    "TensorBoardLogger": "xtorch.callbacks",
    "TimeLimit": "xtorch.callbacks",
    "Trainer": "xtorch.trainer",
    "TrainerConfig": "xtorch.trainer",
    "check_image_folder": "xtorch.data.check",
}

__all__ = [
    "EMA",
    "Callback",
    "CheckpointError",
    "Checkpointing",
    "ConsoleLogger",
    "DataError",
    "DecodeCache",
    "EarlyStopping",
    "ExportError",
    "ExtendedDataLoader",
    "FeatureCache",
    "ForeignCheckpointError",
    "ImageFiles",
    "JSONLinesLogger",
    "KeepBest",
    "LayoutError",
    "ParityError",
    "SampleError",
    "SettingsError",
    "StepOutput",
    "TensorBoardLogger",
    "TimeLimit",
    "TooFewImagesError",
    "Trainer",
    "TrainerConfig",
    "TrainingError",
    "WeightsError",
    "WorkerError",
    "XTorchError",
    "__version__",
    "check_image_folder",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
