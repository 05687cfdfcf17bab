"""The moments of training. A callback overrides those that it cares about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xtorch.errors import SettingsError


@dataclass(kw_only=True)
class TrainState:
    """What a callback sees and may change."""

    model: nn.Module
    epoch: int = 0
    """Epochs finished; during an epoch, its number from 0."""
    step: int = 0
    """Optimiser steps taken."""
    max_epochs: int = 0
    """Epochs that training lasts at most."""
    steps_per_epoch: int | None = None
    """Optimiser steps of an epoch, where known."""
    steps_in_epoch: int = 0
    """Optimiser steps taken in the current epoch."""
    loss: float = math.nan
    """Of the last batch."""
    learning_rate: float = math.nan
    """Of the last step, in the first parameter group."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last epoch: ``loss``, the training metrics and whatever validation returned."""
    history: list[dict[str, float]] = field(default_factory=list)
    averaged: dict[str, Tensor] | None = None
    """Set by a callback that averages weights (`EMA`): entries of the state dict that validation uses instead
    of the model's, and that the model has in the end."""
    stop_reason: str | None = None
    """Set by a callback to end training after the current batch."""
    resumed_from: Path | None = None
    """The folder of the checkpoint that training goes on from, if it does."""
    save_due: bool = False
    """Set by a callback to have `on_checkpoint` called once every callback has been told of the moment."""


class Callback:
    """Base of all callbacks: does nothing.

    In distributed training every process has its own; one whose `main_process_only` is true is told only in
    the process of rank 0.
    """

    main_process_only = False

    def on_train_begin(self, state: TrainState) -> None:
        """Before the first epoch. When training is resumed, the state is that of the checkpoint, and
        `load_state_dict` follows."""

    def on_train_end(self, state: TrainState) -> None:
        """After the last epoch, also when training was stopped early or failed."""

    def on_epoch_begin(self, state: TrainState) -> None:
        """Before an epoch's first batch; not again where training resumes within the epoch."""

    def on_epoch_end(self, state: TrainState) -> None:
        """After an epoch and its validation; `state.metrics` is set."""

    def on_batch_begin(self, state: TrainState) -> None:
        """Before a batch: what one optimiser step sees."""

    def on_batch_end(self, state: TrainState) -> None:
        """After an optimiser step."""

    def on_checkpoint(self, state: TrainState, snapshot: Mapping[str, Any]) -> None:
        """When a checkpoint is due.

        Args:
            state: as at the other moments.
            snapshot: all that training needs to go on: nested dicts, lists and tuples of tensors, arrays
                and JSON's values. Empty in processes of a rank other than 0.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to remember of the callback, of the kinds that a snapshot may hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """A metric to watch and which way is better."""

    metric: str
    maximise: bool = False
    min_delta: float = 0.0

    def improved(self, metrics: Mapping[str, float], best: float | None) -> float | None:
        """The metric's value if it beats `best` by more than `min_delta`, else None.

        Raises:
            SettingsError: there is no such metric.
        """
        if self.metric not in metrics:
            raise SettingsError(
                f"There is no metric {self.metric!r} to watch.",
                value=self.metric,
                hint=f"training and validation gave {', '.join(metrics)}",
            )
        value = metrics[self.metric]
        if math.isnan(value):
            return None
        if best is None:
            return value
        gain = value - best if self.maximise else best - value
        return value if gain > self.min_delta else None
