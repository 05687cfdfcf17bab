"""What may happen around a training step: stopping, keeping, averaging, logging."""

from __future__ import annotations

from xtorch.callbacks.base import Callback, Monitor, TrainState
from xtorch.callbacks.keeping import EMA, KeepBest
from xtorch.callbacks.logs import ConsoleLogger, JSONLinesLogger, ReportProgress, TensorBoardLogger
from xtorch.callbacks.stopping import EarlyStopping, TimeLimit

__all__ = [
    "EMA",
    "Callback",
    "ConsoleLogger",
    "EarlyStopping",
    "JSONLinesLogger",
    "KeepBest",
    "Monitor",
    "ReportProgress",
    "TensorBoardLogger",
    "TimeLimit",
    "TrainState",
]
