"""Which weights training leaves: the best epoch's, a moving average's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xtorch.callbacks.base import Callback, Monitor, TrainState
from xtorch.distributed import like
from xtorch.errors import SettingsError


class KeepBest(Callback):
    """Keeps the best epoch's weights in memory and puts them back at the end.

    With `EMA`, these are the averaged ones, since they are what validation judged.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._weights: dict[str, Tensor] | None = None
        self._reference: dict[str, Tensor] = {}

    def on_train_begin(self, state: TrainState) -> None:
        self.best = self.best_epoch = self._weights = None
        self._reference = state.model.state_dict()

    def on_epoch_end(self, state: TrainState) -> None:
        value = self.monitor.improved(state.metrics, self.best)
        if value is not None:
            self.best, self.best_epoch = value, state.epoch
            judged = state.model.state_dict() | (state.averaged or {})
            self._weights = {name: tensor.detach().clone() for name, tensor in judged.items()}

    def on_train_end(self, state: TrainState) -> None:
        if self._weights is not None:
            state.model.load_state_dict(self._weights)
        self._reference = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        weights = state["weights"]
        self._weights = weights and {
            name: like(self._reference[name], tensor) for name, tensor in weights.items()
        }


class EMA(Callback):
    """Averages the weights exponentially; validation judges the average, and the model ends with it.

    Batch norm's statistics are averaged too, integers are taken as they are. The decay rises as
    ``min(decay, (1 + n) / (10 + n))`` with the number n of updates, so that a short training is not held back
    by its first weights.

    Args:
        decay: 0..1; the average looks back over about ``1 / (1 - decay)`` steps.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (SIAM J. Control and
    Optimization 1992); the rising decay is that of TensorFlow's ``ExponentialMovingAverage(num_updates=)``.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise SettingsError("decay must be at least 0 and less than 1.", value=decay)
        self.decay = decay
        self._updates = 0
        self._average: dict[str, Tensor] = {}

    def on_train_begin(self, state: TrainState) -> None:
        self._updates = 0
        self._average = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
        state.averaged = self._average

    @torch.no_grad()
    def on_batch_end(self, state: TrainState) -> None:
        self._updates += 1
        weight = 1 - min(self.decay, (1 + self._updates) / (10 + self._updates))
        for name, tensor in state.model.state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, weight)
            else:
                self._average[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "average": self._average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = state["updates"]
        for name, tensor in state["average"].items():
            self._average[name].copy_(like(self._average[name], tensor))
