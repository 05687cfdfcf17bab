from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xtorch import (
    Callback,
    EarlyStopping,
    JSONLinesLogger,
    KeepBest,
    SettingsError,
    TimeLimit,
    Trainer,
    TrainerConfig,
    TrainingError,
)
from xtorch.callbacks import Monitor, TrainState

Batch = tuple[Tensor, Tensor]


def line_batches(generator: torch.Generator) -> Iterator[Batch]:
    """Points of y = 2x - 1."""
    for _ in range(4):
        x = torch.rand(16, 1, generator=generator)
        yield x, 2 * x - 1


def squared(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(1, 1)


def test_fit_learns_a_line() -> None:
    model = line()
    result = Trainer(TrainerConfig(max_epochs=150, learning_rate=0.1, weight_decay=0.0)).fit(
        model, line_batches, loss=squared
    )
    assert model.weight.item() == pytest.approx(2, abs=0.05)
    assert model.bias.item() == pytest.approx(-1, abs=0.05)
    assert (result.epochs, result.steps) == (150, 600)
    assert result.history[-1]["loss"] < 1e-3 < result.history[0]["loss"]
    assert result.stop_reason == "all epochs are done"
    assert not model.training


def test_fit_is_the_same_for_a_seed_and_another_for_another() -> None:
    def weights(seed: int) -> list[float]:
        model = line()
        Trainer(TrainerConfig(max_epochs=3, seed=seed)).fit(model, line_batches, loss=squared)
        return [model.weight.item(), model.bias.item()]

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_callbacks_are_told_every_moment_in_order() -> None:
    told: list[str] = []

    class Recorder(Callback):
        def on_train_begin(self, state: TrainState) -> None:
            told.append("train+")

        def on_train_end(self, state: TrainState) -> None:
            told.append("train-")

        def on_epoch_begin(self, state: TrainState) -> None:
            told.append("epoch+")

        def on_epoch_end(self, state: TrainState) -> None:
            told.append(f"epoch-{state.epoch}")

        def on_batch_begin(self, state: TrainState) -> None:
            told.append("batch+")

        def on_batch_end(self, state: TrainState) -> None:
            told.append(f"batch-{state.step}")

    batch = next(line_batches(torch.Generator()))
    Trainer(TrainerConfig(max_epochs=2), [Recorder()]).fit(line(), [batch], loss=squared)
    assert told == [
        "train+",
        *("epoch+", "batch+", "batch-1", "epoch-1"),
        *("epoch+", "batch+", "batch-2", "epoch-2"),
        "train-",
    ]


def test_best_epoch_comes_back_and_training_stops_when_validation_gets_worse() -> None:
    model = line()
    losses = iter([0.5, 0.3, 0.4, 0.45, 0.6, 0.7])
    seen: list[float] = []

    def validate(module: nn.Module) -> dict[str, float]:
        assert not module.training
        seen.append(model.weight.item())
        return {"validation_loss": next(losses)}

    monitor = Monitor(metric="validation_loss")
    best = KeepBest(monitor)
    result = Trainer(TrainerConfig(max_epochs=6), [best, EarlyStopping(monitor, patience=2)]).fit(
        model, line_batches, loss=squared, validate=validate
    )
    assert result.epochs == 4
    assert "has not improved for 2 epochs" in result.stop_reason
    assert (best.best, best.best_epoch) == (0.3, 2)
    assert model.weight.item() == seen[1] != seen[-1]


def test_time_limit_stops_after_the_batch() -> None:
    result = Trainer(TrainerConfig(max_epochs=1000), [TimeLimit(0.0)]).fit(line(), line_batches, loss=squared)
    assert (result.epochs, result.steps) == (1, 1)
    assert "time limit" in result.stop_reason


def test_logger_writes_one_line_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "logs/train.jsonl"
    Trainer(TrainerConfig(max_epochs=3), [JSONLinesLogger(path)]).fit(line(), line_batches, loss=squared)
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["loss"] > 0 for row in rows)


def test_fit_refuses_when_the_loss_is_not_finite() -> None:
    ended: list[bool] = []

    class End(Callback):
        def on_train_end(self, state: TrainState) -> None:
            ended.append(True)

    with pytest.raises(TrainingError) as caught:
        Trainer(TrainerConfig(), [End()]).fit(
            line(), line_batches, loss=lambda model, batch: squared(model, batch) * float("nan")
        )
    assert caught.value.code == "training.failed"
    assert ended == [True]


def test_fit_refuses_when_there_is_nothing_to_do() -> None:
    with pytest.raises(TrainingError, match="no training batches"):
        Trainer(TrainerConfig()).fit(line(), [], loss=squared)
    with pytest.raises(TrainingError, match="no parameters"):
        Trainer(TrainerConfig()).fit(line().requires_grad_(False), line_batches, loss=squared)
    with pytest.raises(SettingsError):
        TrainerConfig(max_epochs=0)
    with pytest.raises(SettingsError):
        TrainerConfig(learning_rate=-1)


def test_learning_rate_warms_up_and_falls_to_nothing() -> None:
    config = TrainerConfig(max_epochs=11, warmup_epochs=1, learning_rate=1.0)
    rates = [config.rate(epoch) for epoch in range(12)]
    assert rates[0] == 0.5
    assert rates[1] == 1.0
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
