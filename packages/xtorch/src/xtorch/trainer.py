"""A plain training loop: batches in, loss down, callbacks around it, the same result for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xtorch.callbacks import Callback, TrainState
from xtorch.errors import SettingsError, TrainingError

Batch = Any
Loss = Callable[[nn.Module, Batch], Tensor]
Batches = Iterable[Batch] | Callable[[torch.Generator], Iterable[Batch]]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How to train.

    The learning rate warms up linearly over `warmup_epochs` and falls to zero along a cosine.

    Source: Loshchilov and Hutter, "SGDR" (ICLR 2017), equation 5, without restarts; AdamW from "Decoupled
    Weight Decay Regularization" (ICLR 2019), algorithm 2.
    """

    max_epochs: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_epochs: int = 1
    clip_norm: float | None = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise SettingsError("max_epochs must be at least 1.", value=self.max_epochs)
        if not self.learning_rate > 0:
            raise SettingsError("learning_rate must be positive.", value=self.learning_rate)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1) / (self.warmup_epochs + 1)
        done = (epoch - self.warmup_epochs) / max(1, self.max_epochs - self.warmup_epochs)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What `Trainer.fit` did."""

    epochs: int
    steps: int
    history: Sequence[Mapping[str, float]]
    """Metrics of each epoch."""
    stop_reason: str
    """Why it ended: all epochs done, or a callback's words."""


class Trainer:
    """Trains a model's parameters that require gradients.

    Args:
        config: how to train.
        callbacks: told of every moment, in this order.
    """

    def __init__(self, config: TrainerConfig, callbacks: Sequence[Callback] = ()) -> None:
        self.config = config
        self.callbacks = tuple(callbacks)

    def fit(
        self,
        model: nn.Module,
        train_batches: Batches,
        *,
        loss: Loss,
        validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    ) -> FitResult:
        """Train in place.

        Args:
            model: trained in place; in training mode during batches, in evaluation mode during `validate`
                and afterwards.
            train_batches: iterated once an epoch; a function gets a seeded generator and returns the
                epoch's batches.
            loss: scalar loss of the model on one batch.
            validate: metrics of the model after an epoch.

        Returns:
            What was done.

        Raises:
            TrainingError: the loss is not finite, or there are no batches or nothing to train.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise TrainingError("The model has no parameters to train.")
        torch.manual_seed(self.config.seed)
        generator = torch.Generator().manual_seed(self.config.seed)
        optimiser = torch.optim.AdamW(
            parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        state = TrainState(model=model)
        self._tell("on_train_begin", state)
        try:
            while state.epoch < self.config.max_epochs and state.stop_reason is None:
                for group in optimiser.param_groups:
                    group["lr"] = self.config.rate(state.epoch)
                self._epoch(state, train_batches, loss, validate, optimiser, generator)
        finally:
            model.eval()
            self._tell("on_train_end", state)
        return FitResult(
            epochs=state.epoch,
            steps=state.step,
            history=tuple(state.history),
            stop_reason=state.stop_reason or "all epochs are done",
        )

    def _epoch(
        self,
        state: TrainState,
        train_batches: Batches,
        loss: Loss,
        validate: Callable[[nn.Module], Mapping[str, float]] | None,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> None:
        self._tell("on_epoch_begin", state)
        state.model.train()
        losses: list[float] = []
        for batch in train_batches(generator) if callable(train_batches) else train_batches:
            self._tell("on_batch_begin", state)
            value = loss(state.model, batch)
            losses.append(float(value.detach()))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    f"The loss is {losses[-1]} in epoch {state.epoch}.",
                    value=losses[-1],
                    hint="lower the learning rate, or look for broken values in the data",
                )
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if self.config.clip_norm is not None:
                nn.utils.clip_grad_norm_(
                    [p for group in optimiser.param_groups for p in group["params"]], self.config.clip_norm
                )
            optimiser.step()
            state.step += 1
            self._tell("on_batch_end", state)
            if state.stop_reason is not None:
                break
        if not losses:
            raise TrainingError("There are no training batches.")
        state.model.eval()
        metrics = {"loss": sum(losses) / len(losses)}
        if validate is not None:
            with torch.inference_mode():
                metrics |= {name: float(value) for name, value in validate(state.model).items()}
        state.epoch += 1
        state.metrics = metrics
        state.history.append(metrics)
        self._tell("on_epoch_end", state)

    def _tell(self, moment: str, state: TrainState) -> None:
        for callback in self.callbacks:
            getattr(callback, moment)(state)
