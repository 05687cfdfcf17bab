"""Ending training before all epochs are done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from xtorch.callbacks.base import Callback, Monitor, TrainState


class EarlyStopping(Callback):
    """Stops when a metric has not improved for `patience` epochs."""

    def __init__(self, monitor: Monitor, *, patience: int) -> None:
        self.monitor, self.patience = monitor, patience
        self._best: float | None = None
        self._best_epoch = 0

    def on_train_begin(self, state: TrainState) -> None:  # noqa: ARG002
        self._best, self._best_epoch = None, 0

    def on_epoch_end(self, state: TrainState) -> None:
        value = self.monitor.improved(state.metrics, self._best)
        if value is not None:
            self._best, self._best_epoch = value, state.epoch
        elif state.epoch - self._best_epoch >= self.patience:
            state.stop_reason = f"{self.monitor.metric} has not improved for {self.patience} epochs"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "best_epoch": self._best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._best_epoch = state["best"], state["best_epoch"]


class TimeLimit(Callback):
    """Stops when training has taken longer than `limit_s` seconds, those before a resume included."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._start = 0.0

    def on_train_begin(self, state: TrainState) -> None:  # noqa: ARG002
        self._start = time.monotonic()

    def on_batch_end(self, state: TrainState) -> None:
        if time.monotonic() - self._start > self.limit_s:
            state.stop_reason = f"the time limit of {self.limit_s:g} s was reached"

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": time.monotonic() - self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._start = time.monotonic() - state["elapsed_s"]
