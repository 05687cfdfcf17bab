from __future__ import annotations

import io
import json
import random
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xtorch import (
    EMA,
    Callback,
    ConsoleLogger,
    EarlyStopping,
    JSONLinesLogger,
    KeepBest,
    SettingsError,
    StepOutput,
    TensorBoardLogger,
    TimeLimit,
    Trainer,
    TrainerConfig,
    TrainingError,
)
from xtorch.callbacks import Monitor, TrainState
from xtorch.optim import Step
from xtorch.streaming import Accuracy

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


def one_by_one(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    return [(x, 2 * x - 1) for x in torch.rand(count, 1, 1, generator=generator)]


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_accumulated_batches_are_one_step_of_their_mean() -> None:
    small = one_by_one(8)
    parts = (small[:4], small[4:])
    large = [(torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])) for part in parts]
    results = []
    for batches, accumulate in ((small, 4), (large, 1)):
        model = line()
        config = TrainerConfig(max_epochs=2, accumulate=accumulate, clip_norm=None)
        result = Trainer(config).fit(model, batches, loss=squared, optimiser=plain_sgd)
        results.append((result.steps, result.history[-1]["loss"], model.weight.item(), model.bias.item()))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0][0] == 4


def test_a_last_incomplete_group_counts_as_what_it_is() -> None:
    seen: list[Tensor] = []

    class Gradients(Callback):
        def on_batch_end(self, state: TrainState) -> None:
            grad = state.model.get_parameter("bias").grad
            assert grad is not None
            seen.append(grad.clone())

    batches = one_by_one(3)
    config = TrainerConfig(max_epochs=1, accumulate=2, clip_norm=None)
    Trainer(config, [Gradients()]).fit(
        line(), batches, loss=lambda model, batch: model(batch[0]).sum(), optimiser=plain_sgd
    )
    assert [g.item() for g in seen] == [1, 1]


def test_gradients_are_clipped() -> None:
    norms: list[float] = []

    class Gradients(Callback):
        def on_batch_end(self, state: TrainState) -> None:
            grads = [p.grad.ravel() for p in state.model.parameters() if p.grad is not None]
            norms.append(float(torch.cat(grads).norm()))

    for clip_norm in (0.01, None):
        config = TrainerConfig(max_epochs=1, clip_norm=clip_norm)
        Trainer(config, [Gradients()]).fit(line(), one_by_one(1), loss=squared)
    assert norms[0] == pytest.approx(0.01, rel=1e-3)
    assert norms[1] > 0.02


def rates(config: TrainerConfig, batches: object) -> list[float]:
    seen: list[float] = []

    class Rates(Callback):
        def on_batch_end(self, state: TrainState) -> None:
            seen.append(state.learning_rate)

    Trainer(config, [Rates()]).fit(line(), batches, loss=squared)
    return seen


def test_rate_changes_with_every_step_where_their_number_is_known() -> None:
    config = TrainerConfig(max_epochs=2, warmup_epochs=0.5, learning_rate=1.0)
    with_length = rates(config, one_by_one(4))
    assert len(set(with_length)) == 8
    assert with_length[:2] == pytest.approx([1 / 3, 2 / 3])
    assert with_length[2] == 1.0
    by_epoch = rates(config, line_batches)
    assert len(set(by_epoch)) == 2
    told = TrainerConfig(max_epochs=2, warmup_epochs=0.5, learning_rate=1.0, steps_per_epoch=4)
    assert rates(told, line_batches) == pytest.approx(with_length)


def test_groups_keep_their_own_rates_under_a_schedule() -> None:
    seen: list[list[float]] = []

    def optimiser(model: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(model, nn.Linear)
        made = torch.optim.SGD([{"params": [model.weight], "lr": 1.0}, {"params": [model.bias], "lr": 0.1}])

        def note(*_: object) -> None:
            seen.append([group["lr"] for group in made.param_groups])

        made.register_step_pre_hook(note)
        return made

    config = TrainerConfig(max_epochs=2, schedule=Step(every_epochs=1, gamma=0.5))
    Trainer(config).fit(line(), one_by_one(1), loss=squared, optimiser=optimiser)
    assert seen == [[1.0, 0.1], [0.5, 0.05]]


def classify(model: nn.Module, batch: Batch) -> StepOutput:
    scores = torch.cat([model(batch[0]), -model(batch[0])], dim=1)
    targets = (batch[0][:, 0] < 0.5).long()
    return StepOutput(loss=nn.functional.cross_entropy(scores, targets), predictions=scores, targets=targets)


def test_metrics_of_training_and_validation() -> None:
    x = torch.linspace(0, 1, 11)[:, None]
    held_out = [(x[:8], x[:8]), (x[8:], x[8:])]
    model = line()
    config = TrainerConfig(max_epochs=40, learning_rate=0.2, weight_decay=0.0)
    result = Trainer(config).fit(
        model, line_batches, loss=classify, validation_batches=held_out, metrics={"accuracy": Accuracy()}
    )
    first, last = result.history[0], result.history[-1]
    assert set(first) == {"loss", "accuracy", "validation_loss", "validation_accuracy"}
    assert last["accuracy"] > 0.9 > first["accuracy"]
    with torch.no_grad():
        whole = classify(model, (x, x))
    assert last["validation_loss"] == pytest.approx(whole.loss.item(), rel=1e-5)
    expected = (whole.predictions.argmax(1) == whole.targets).float().mean().item()
    assert last["validation_accuracy"] == pytest.approx(expected)


def picture_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 1))


PICTURES = torch.randn(4, 2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"precision": "bf16"}, 0.05),
        ({"precision": "fp16"}, 0.1),  # the first steps look for a loss scale
        ({"channels_last": True}, 1e-4),
        ({"compile": True, "compile_backend": "aot_eager"}, 1e-4),
    ],
)
def test_every_way_to_execute_trains_the_same(settings: dict[str, Any], tolerance: float) -> None:
    def fit(**how: Any) -> tuple[list[float], list[torch.dtype], list[bool]]:
        dtypes: list[torch.dtype] = []
        layouts: list[bool] = []

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            out = model(batch)
            dtypes.append(out.dtype)
            layouts.append(batch.is_contiguous(memory_format=torch.channels_last))
            return (out.float() - 1).square().mean()

        model = picture_network()
        result = Trainer(TrainerConfig(max_epochs=3, **how)).fit(model, list(PICTURES), loss=loss)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        return [row["loss"] for row in result.history], dtypes, layouts

    expected, _, _ = fit()
    got, dtypes, layouts = fit(**settings)
    assert got == pytest.approx(expected, rel=tolerance)
    assert expected[-1] < expected[0]
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.get("precision", ""), torch.float32)
    assert set(dtypes) == {wanted}
    assert all(layouts) == settings.get("channels_last", False)


def test_fp16_scales_the_loss_and_skips_steps_that_overflow() -> None:
    steps: list[float] = []

    class Weights(Callback):
        def on_batch_end(self, state: TrainState) -> None:
            steps.append(state.model.get_parameter("weight").item())

    def huge(model: nn.Module, batch: Batch) -> Tensor:
        # The gradient is finite in float32 but not after scaling by 65536.
        return squared(model, batch) * 1e34

    before = line().weight.item()
    config = TrainerConfig(max_epochs=1, precision="fp16", clip_norm=None)
    Trainer(config, [Weights()]).fit(line(), one_by_one(2), loss=huge)
    assert steps == [before, before]


def test_batches_of_every_structure_reach_the_device() -> None:
    Point = namedtuple("Point", "x y")

    class Own:
        def to(self, device: torch.device) -> str:
            return f"moved to {device}"

    batch = {"a": (torch.zeros(1), [Point(torch.ones(1), 3)]), "b": "text", "c": Own()}
    seen: list[Any] = []

    def loss(model: nn.Module, moved: Any) -> Tensor:
        seen.append(moved)
        return model(torch.zeros(1, 1)).sum()

    Trainer(TrainerConfig(max_epochs=1, device="cpu")).fit(line(), [batch], loss=loss)
    moved = seen[0]
    assert isinstance(moved["a"][1][0], Point)
    assert (moved["b"], moved["c"]) == ("text", "moved to cpu")


def test_validation_and_the_end_see_the_averaged_weights() -> None:
    raw: list[float] = []
    seen: list[float] = []

    class Raw(Callback):
        def on_batch_end(self, state: TrainState) -> None:
            raw.append(state.model.get_parameter("bias").item())

    model = line()
    start = model.bias.item()

    def validate(module: nn.Module) -> dict[str, float]:
        seen.append(module.get_parameter("bias").item())
        return {}

    Trainer(TrainerConfig(max_epochs=3, learning_rate=0.1), [Raw(), EMA(0.5)]).fit(
        model, line_batches, loss=squared, validate=validate
    )
    average, expected = start, []
    for number, value in enumerate(raw, start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * value
        if number % 4 == 0:
            expected.append(average)
    assert seen == pytest.approx(expected, rel=1e-5)
    assert model.bias.item() == seen[-1]


def test_the_best_averaged_weights_are_kept_whatever_the_order_of_callbacks() -> None:
    for first in (True, False):
        judged: list[float] = []
        losses = iter([3.0, 1.0, 2.0])

        def validate(module: nn.Module) -> dict[str, float]:
            judged.append(module.get_parameter("bias").item())  # noqa: B023
            return {"validation_loss": next(losses)}  # noqa: B023

        callbacks: list[Callback] = [EMA(0.9), KeepBest(Monitor(metric="validation_loss"))]
        model = line()
        Trainer(TrainerConfig(max_epochs=3), callbacks if first else callbacks[::-1]).fit(
            model, line_batches, loss=squared, validate=validate
        )
        assert model.bias.item() == judged[1]


def test_unknown_metric_is_named_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match="'f1'") as caught:
        Trainer(TrainerConfig(max_epochs=1), [KeepBest(Monitor(metric="f1"))]).fit(
            line(), line_batches, loss=squared
        )
    assert "loss" in str(caught.value.hint)


def test_console_tells_of_steps_and_epochs() -> None:
    stream = io.StringIO()
    Trainer(TrainerConfig(max_epochs=2), [ConsoleLogger(every_s=0, stream=stream), TimeLimit(1e9)]).fit(
        line(), one_by_one(2), loss=squared
    )
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("epoch 1/2  step 1/2  loss ")
    assert lines[5].startswith("epoch 2/2  loss ")
    assert "steps/s" in lines[0]


def test_tensorboard_gets_steps_and_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = Trainer(TrainerConfig(max_epochs=2), [TensorBoardLogger(tmp_path, every_steps=2)]).fit(
        line(), line_batches, loss=squared
    )
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [2, 4, 6, 8]
    values = [event.value for event in events.Scalars("epoch/loss")]
    assert values == pytest.approx([row["loss"] for row in result.history])


def test_logger_writes_null_for_what_json_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Trainer(TrainerConfig(max_epochs=1), [JSONLinesLogger(path)]).fit(
        line(), line_batches, loss=squared, validate=lambda model: {"auroc": float("nan")}
    )
    assert json.loads(path.read_text())["auroc"] is None


def test_settings_out_of_range_are_refused() -> None:
    for wrong in (
        {"accumulate": 0},
        {"clip_norm": 0.0},
        {"seed": -1},
        {"precision": "int4"},
    ):
        with pytest.raises(SettingsError):
            TrainerConfig(**wrong)
    with pytest.raises(SettingsError, match="is not here"):
        Trainer(TrainerConfig(device="cuda:99")).fit(line(), line_batches, loss=squared)
    with pytest.raises(SettingsError):
        EMA(1.0)


def test_seed_covers_every_generator() -> None:
    drawn: list[tuple[float, float]] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        drawn.append((random.random(), np.random.rand()))
        return squared(model, batch)

    for _ in range(2):
        random.seed()
        np.random.seed()
        Trainer(TrainerConfig(max_epochs=1, seed=7)).fit(line(), one_by_one(1), loss=loss)
    assert drawn[0] == drawn[1]
