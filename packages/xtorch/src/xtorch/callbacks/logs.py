"""Telling how training goes: to a console, a file, TensorBoard, a job's progress."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import IO, Any

from xtorch.callbacks.base import Callback, TrainState
from xtorch.errors import SettingsError
from xtorch.progress import Progress


class JSONLinesLogger(Callback):
    """Appends one JSON object per epoch to a file.

    When training resumes from a checkpoint, the lines of later epochs are removed first: they come again.
    """

    main_process_only = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def on_train_begin(self, state: TrainState) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if state.resumed_from is not None and self.path.exists():
            # A killed process may have left half a line.
            lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
            kept = [line for line in lines if json.loads(line)["epoch"] <= state.epoch]
            self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def on_epoch_end(self, state: TrainState) -> None:
        assert self._file is not None
        # JSON has no NaN.
        metrics = {name: value if math.isfinite(value) else None for name, value in state.metrics.items()}
        self._file.write(json.dumps({"epoch": state.epoch, "step": state.step, **metrics}) + "\n")
        self._file.flush()

    def on_train_end(self, state: TrainState) -> None:  # noqa: ARG002
        if self._file is not None:
            self._file.close()
            self._file = None


class ConsoleLogger(Callback):
    """Writes a line per epoch, and within an epoch one every few seconds.

    Args:
        every_s: seconds between lines within an epoch.
        stream: default: standard error.
    """

    main_process_only = True

    def __init__(self, *, every_s: float = 10.0, stream: IO[str] | None = None) -> None:
        self.every_s, self._stream = every_s, stream
        self._epoch_start_s = self._last_line_s = 0.0
        self._first_step = 0

    def on_train_begin(self, state: TrainState) -> None:
        # Also where training resumes within an epoch.
        self.on_epoch_begin(state)

    def on_epoch_begin(self, state: TrainState) -> None:
        self._epoch_start_s = self._last_line_s = time.monotonic()
        self._first_step = state.step

    def on_batch_end(self, state: TrainState) -> None:
        if time.monotonic() - self._last_line_s < self.every_s:
            return
        self._last_line_s = time.monotonic()
        of = f"/{state.steps_per_epoch}" if state.steps_per_epoch else ""
        self._write(
            f"epoch {state.epoch + 1}/{state.max_epochs}  step {state.steps_in_epoch}{of}  "
            f"loss {state.loss:.4g}  learning rate {state.learning_rate:.3g}  {self._speed(state)}"
        )

    def on_epoch_end(self, state: TrainState) -> None:
        values = "  ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
        self._write(f"epoch {state.epoch}/{state.max_epochs}  {values}  {self._speed(state)}")

    def on_train_end(self, state: TrainState) -> None:
        if state.stop_reason is not None:
            self._write(f"stopped: {state.stop_reason}")

    def _speed(self, state: TrainState) -> str:
        spent_s = max(time.monotonic() - self._epoch_start_s, 1e-9)
        return f"{(state.step - self._first_step) / spent_s:.3g} steps/s"

    def _write(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)


class TensorBoardLogger(Callback):
    """Writes metrics of every epoch, and loss and learning rate of every `every_steps`-th step, as scalars.

    Args:
        folder: the run's folder for ``tensorboard --logdir``.
        every_steps: steps between points.

    Raises:
        SettingsError: the package ``tensorboard`` is not installed (the extra ``tensorboard``).
    """

    main_process_only = True

    def __init__(self, folder: str | Path, *, every_steps: int = 10) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingsError(
                "TensorBoardLogger needs the package tensorboard.",
                value="tensorboard",
                hint="pip install 'ignition-xtorch[tensorboard]'",
            ) from error
        self.folder, self.every_steps = Path(folder), every_steps
        self._make = SummaryWriter
        self._writer: Any = None

    def on_train_begin(self, state: TrainState) -> None:
        # Points after the checkpoint that training resumes from are hidden: they come again.
        self._writer = self._make(str(self.folder), purge_step=state.step + 1 if state.step else None)

    def on_batch_end(self, state: TrainState) -> None:
        if state.step % self.every_steps == 0:
            self._writer.add_scalar("step/loss", state.loss, state.step)
            self._writer.add_scalar("step/learning_rate", state.learning_rate, state.step)

    def on_epoch_end(self, state: TrainState) -> None:
        for name, value in state.metrics.items():
            self._writer.add_scalar(f"epoch/{name}", value, state.step)

    def on_train_end(self, state: TrainState) -> None:  # noqa: ARG002
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class ReportProgress(Callback):
    """Tells a `Progress` after every epoch.

    Args:
        progress: where reports go.
        stage: its title.
        max_epochs: what counts as done.
    """

    main_process_only = True

    def __init__(self, progress: Progress, stage: str, *, max_epochs: int) -> None:
        self.progress, self.stage, self.max_epochs = progress, stage, max_epochs

    def on_epoch_end(self, state: TrainState) -> None:
        self.progress(
            self.stage,
            progress=state.epoch / self.max_epochs,
            message=f"epoch {state.epoch}",
            metrics={"epoch": float(state.epoch), **state.metrics},
        )
