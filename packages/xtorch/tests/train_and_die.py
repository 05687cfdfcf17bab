"""A small training that uses everything that has a state. Run as a program, it kills itself on the way.

python train_and_die.py FOLDER step:7      SIGKILL after the 7th step, before its checkpoint
python train_and_die.py FOLDER write:3     SIGKILL within the writing of the 3rd checkpoint
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtorch import (
    EMA,
    Callback,
    Checkpointing,
    EarlyStopping,
    JSONLinesLogger,
    KeepBest,
    StepOutput,
    Trainer,
    TrainerConfig,
)
from xtorch.callbacks import Monitor, TrainState
from xtorch.optim import OneCycle
from xtorch.streaming import AUROC, Accuracy

Batch = tuple[Tensor, Tensor]


class Die(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, state: TrainState) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Points:
    """Batches in a random order. With a state, unless it is kept from having one."""

    def __init__(self, *, stateful: bool) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x_NF = torch.randn(60, 6, generator=generator)
        self.y_N = (self.x_NF[:, 0] * self.x_NF[:, 1] > 0).long()
        self.order, self.position = torch.empty(0, dtype=torch.long), 0
        self.read = 0
        if stateful:
            self.state_dict = lambda: {"order": self.order, "position": self.position}
            self.load_state_dict = self._load

    def _load(self, state: dict[str, Any]) -> None:
        self.order, self.position = state["order"], state["position"]

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Any:
        if self.position in (0, 10):
            # From the global generator, as torch's DataLoader does.
            self.order, self.position = torch.randperm(60), 0
        while self.position < 10:
            picks = self.order[self.position * 6 : self.position * 6 + 6]
            self.position += 1
            self.read += 1
            yield self.x_NF[picks], self.y_N[picks]


def loss(model: nn.Module, batch: Batch) -> StepOutput:
    x_NF, y_N = batch
    if model.training:
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        x_NF = x_NF + 0.1 * noise
    scores_NK = model(x_NF)
    return StepOutput(loss=nn.functional.cross_entropy(scores_NK, y_N), predictions=scores_NK, targets=y_N)


def train(
    folder: Path, *, resume: bool, stateful: bool = False, callbacks: Sequence[Callback] = ()
) -> tuple[dict[str, Tensor], list[dict[str, float]], Points]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    points = Points(stateful=stateful)
    monitor = Monitor(metric="validation_loss")
    trainer = Trainer(
        TrainerConfig(max_epochs=4, learning_rate=0.02, accumulate=2, schedule=OneCycle(), seed=11),
        [
            *callbacks,
            EMA(0.9),
            KeepBest(monitor),
            EarlyStopping(monitor, patience=3),
            JSONLinesLogger(folder / "log.jsonl"),
            Checkpointing(folder / "checkpoints", every_s=0),
        ],
    )
    result = trainer.fit(
        model,
        points,
        loss=loss,
        validation_batches=[(points.x_NF, points.y_N)],
        metrics={"accuracy": Accuracy()},
        validate=lambda module: {"auroc": _auroc(module, points)},
        resume=folder / "checkpoints" if resume else None,
    )
    return model.state_dict(), [dict(row) for row in result.history], points


def _auroc(model: nn.Module, points: Points) -> float:
    metric = AUROC()
    metric.update(model(points.x_NF)[:, 1].numpy(), points.y_N.numpy())
    return metric.compute()


def die_while_writing(number: int) -> None:
    """SIGKILL when the number-th checkpoint is about to get its name."""
    rename, seen = Path.rename, 0

    def killing(path: Path, target: Path) -> Path:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.rename = killing  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    where, (how, count) = Path(sys.argv[1]), sys.argv[2].split(":")
    if how == "write":
        die_while_writing(int(count))
    # A callback more would make it another training: both programs have one.
    train(where, resume=True, callbacks=[Die(int(count) if how == "step" else -1)])
