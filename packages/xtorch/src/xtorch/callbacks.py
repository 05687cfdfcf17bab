"""What may happen around a training step. A callback overrides the moments that it cares about."""

# ruff: noqa: ARG002  (every moment gets the state, needed or not)

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch
from torch import nn

from xtorch.progress import Progress


@dataclass(kw_only=True)
class TrainState:
    """What a callback sees and may change."""

    model: nn.Module
    epoch: int = 0
    """Epochs finished; during an epoch, its number from 0."""
    step: int = 0
    """Optimiser steps taken."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last epoch: ``loss`` and whatever validation returned."""
    history: list[dict[str, float]] = field(default_factory=list)
    stop_reason: str | None = None
    """Set by a callback to end training after the current batch."""


class Callback:
    """Base of all callbacks: does nothing."""

    def on_train_begin(self, state: TrainState) -> None:
        """Before the first epoch."""

    def on_train_end(self, state: TrainState) -> None:
        """After the last epoch, also when training was stopped early."""

    def on_epoch_begin(self, state: TrainState) -> None:
        """Before an epoch's first batch."""

    def on_epoch_end(self, state: TrainState) -> None:
        """After an epoch and its validation; `state.metrics` is set."""

    def on_batch_begin(self, state: TrainState) -> None:
        """Before a batch."""

    def on_batch_end(self, state: TrainState) -> None:
        """After an optimiser step."""


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """A metric to watch and which way is better."""

    metric: str
    maximise: bool = False
    min_delta: float = 0.0

    def improved(self, metrics: Mapping[str, float], best: float | None) -> float | None:
        """The metric's value if it beats `best` by more than `min_delta`, else None."""
        value = metrics[self.metric]
        if math.isnan(value):
            return None
        if best is None:
            return value
        gain = value - best if self.maximise else best - value
        return value if gain > self.min_delta else None


class EarlyStopping(Callback):
    """Stops when a metric has not improved for `patience` epochs."""

    def __init__(self, monitor: Monitor, *, patience: int) -> None:
        self.monitor, self.patience = monitor, patience
        self._best: float | None = None
        self._best_epoch = 0

    def on_train_begin(self, state: TrainState) -> None:
        self._best, self._best_epoch = None, 0

    def on_epoch_end(self, state: TrainState) -> None:
        value = self.monitor.improved(state.metrics, self._best)
        if value is not None:
            self._best, self._best_epoch = value, state.epoch
        elif state.epoch - self._best_epoch >= self.patience:
            state.stop_reason = f"{self.monitor.metric} has not improved for {self.patience} epochs"


class KeepBest(Callback):
    """Keeps the best epoch's parameters in memory and puts them back at the end."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._weights: dict[str, torch.Tensor] | None = None

    def on_train_begin(self, state: TrainState) -> None:
        self.best = self.best_epoch = self._weights = None

    def on_epoch_end(self, state: TrainState) -> None:
        value = self.monitor.improved(state.metrics, self.best)
        if value is not None:
            self.best, self.best_epoch = value, state.epoch
            self._weights = copy.deepcopy(state.model.state_dict())

    def on_train_end(self, state: TrainState) -> None:
        if self._weights is not None:
            state.model.load_state_dict(self._weights)


class TimeLimit(Callback):
    """Stops when training has taken longer than `limit_s` seconds."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._start = 0.0

    def on_train_begin(self, state: TrainState) -> None:
        self._start = time.monotonic()

    def on_batch_end(self, state: TrainState) -> None:
        if time.monotonic() - self._start > self.limit_s:
            state.stop_reason = f"the time limit of {self.limit_s:g} s was reached"


class JSONLinesLogger(Callback):
    """Appends one JSON object per epoch to a file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def on_train_begin(self, state: TrainState) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")

    def on_epoch_end(self, state: TrainState) -> None:
        assert self._file is not None
        self._file.write(json.dumps({"epoch": state.epoch, "step": state.step, **state.metrics}) + "\n")
        self._file.flush()

    def on_train_end(self, state: TrainState) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class ReportProgress(Callback):
    """Tells a `Progress` after every epoch.

    Args:
        progress: where reports go.
        stage: its title.
        max_epochs: what counts as done.
    """

    def __init__(self, progress: Progress, stage: str, *, max_epochs: int) -> None:
        self.progress, self.stage, self.max_epochs = progress, stage, max_epochs

    def on_epoch_end(self, state: TrainState) -> None:
        self.progress(
            self.stage,
            progress=state.epoch / self.max_epochs,
            message=f"epoch {state.epoch}",
            metrics={"epoch": float(state.epoch), **state.metrics},
        )
