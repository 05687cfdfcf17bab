"""What a training within a time budget fixes before its first step, and keeps for when it is killed."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from xtorch.callbacks import Callback, TrainState
from xtorch.execution import Execution
from xtorch.progress import Stages


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What is fixed before the first step.

    Attributes:
        epochs: Epochs of the training.
        execution: Precision and layout, as measured.
        step_s: Seconds a step took when it was planned; None: epochs were given.
    """

    epochs: int
    execution: Execution
    step_s: float | None


Plan = TypeVar("Plan", bound=TrainingPlan)


def kept_plan(folder: Path, kind: type[Plan]) -> Plan | None:
    """The plan of an interrupted training; None where there is none of this kind."""
    try:
        document = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        return kind(**{**document, "execution": Execution(**document["execution"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_plan(folder: Path, made: TrainingPlan) -> None:
    """Writes the plan before the first step, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".plan.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(made)), encoding="utf-8")
    temporary.replace(folder / "plan.json")


class Told(Callback):
    """Tells a run's stage of training's progress.

    Args:
        stages: Of the run.
        stage: The one that training is.
        unit: What people are told an epoch is.
    """

    def __init__(self, stages: Stages, stage: str, unit: str) -> None:
        self._stages, self._stage, self._unit = stages, stage, unit

    def on_batch_end(self, state: TrainState) -> None:
        share = state.steps_in_epoch / (state.steps_per_epoch or 1)
        self._stages.report(
            self._stage,
            min((state.epoch + share) / state.max_epochs, 1.0),
            message=f"{self._unit} {state.epoch + 1} of {state.max_epochs}",
        )

    def on_epoch_end(self, state: TrainState) -> None:
        metrics = {name: value for name, value in state.metrics.items() if math.isfinite(value)}
        self._stages.report(
            self._stage,
            min(state.epoch / state.max_epochs, 1.0),
            message=f"{self._unit} {state.epoch} of {state.max_epochs}",
            metrics={"epoch": float(state.epoch), **metrics},
        )
