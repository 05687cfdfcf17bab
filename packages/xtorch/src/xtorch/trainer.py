"""The trainer: batches in, loss down, callbacks around it, the same result for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from xtorch import distributed
from xtorch.callbacks.base import Callback
from xtorch.checkpoint import newest_checkpoint
from xtorch.determinism import seed_everything
from xtorch.errors import ForeignCheckpointError, SettingsError, TrainingError
from xtorch.execution import Execution, Precision, pick_device
from xtorch.loop import Batch, Batches, Loop, Loss, StepOutput, Validate
from xtorch.optim import Cosine, Schedule
from xtorch.streaming import StreamingMetric

__all__ = ["Batch", "Batches", "FitResult", "Loss", "StepOutput", "Trainer", "TrainerConfig", "Validate"]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How to train.

    Source: AdamW, the default optimiser: Loshchilov and Hutter, "Decoupled Weight Decay Regularization"
    (ICLR 2019), algorithm 2.
    """

    max_epochs: int = 50
    learning_rate: float = 1e-3
    """The highest; of the default optimiser. Another brings its own."""
    weight_decay: float = 1e-2
    """Of the default optimiser, for all parameters."""
    warmup_epochs: float = 1
    """Of the default schedule."""
    schedule: Schedule | None = None
    """Default: linear warm-up over `warmup_epochs`, then half a cosine to 0 (`optim.Cosine`)."""
    steps_per_epoch: int | None = None
    """For batches that come without a length. The learning rate changes with every step where the number of
    steps is known, else with every epoch."""
    accumulate: int = 1
    """Batches per optimiser step; its gradient is the mean of theirs."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    deterministic: bool = False
    """Refuse algorithms whose result depends on timing; only GPUs have them, and are slower without."""
    device: str | None = None
    """None: where the model is; "auto": the best one here; or its name."""
    precision: Precision | Literal["auto"] = "fp32"
    """Of matrix products and convolutions; weights stay float32. "auto" measures what is fastest here,
    the layout too, and says so (`autoconfig`). The default is the safe one."""
    channels_last: bool = False
    """Keep images and convolutions' weights with the channels innermost: often faster."""
    compile: bool = False
    """Compile the model with `torch.compile`: a minute first, worth it in a long training."""
    compile_backend: str = "inductor"
    parallel: distributed.Parallel = "ddp"
    """What several processes (torchrun, `distributed.process_group`) do: replicate the model or shard it."""

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise SettingsError("max_epochs must be at least 1.", value=self.max_epochs)
        if not self.learning_rate > 0:
            raise SettingsError("learning_rate must be positive.", value=self.learning_rate)
        if self.accumulate < 1:
            raise SettingsError("accumulate must be at least 1.", value=self.accumulate)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise SettingsError("clip_norm must be positive, or None.", value=self.clip_norm)
        if self.seed < 0:
            raise SettingsError("seed must not be negative.", value=self.seed)
        if self.precision not in ("fp32", "bf16", "fp16", "auto"):
            raise SettingsError("precision must be fp32, bf16, fp16 or auto.", value=self.precision)
        distributed.check(self.parallel)

    @property
    def rates(self) -> Schedule:
        """The schedule."""
        return self.schedule or Cosine(warmup_epochs=self.warmup_epochs)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0, where it changes with every epoch."""
        return self.learning_rate * self.rates.factor(epoch, 1, self.max_epochs)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What `Trainer.fit` did."""

    epochs: int
    steps: int
    history: Sequence[Mapping[str, float]]
    """Metrics of each epoch."""
    stop_reason: str
    """Why it ended: all epochs done, or a callback's words."""
    execution: Execution
    """How steps were executed."""


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
        validate: Validate | None = None,
        validation_batches: Iterable[Batch] | None = None,
        metrics: Mapping[str, StreamingMetric] | None = None,
        optimiser: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        resume: str | Path | None = None,
    ) -> FitResult:
        """Train in place.

        Args:
            model: trained in place; in training mode during batches, in evaluation mode during validation
                and afterwards.
            train_batches: iterated once an epoch; a function gets a seeded generator and returns the
                epoch's batches. Tensors in them are moved to the device. `set_epoch` is called before each
                epoch where there is one. A source with `state_dict` and `load_state_dict` is resumed within
                an epoch by them (`xtorch.data.loader`); of any other, the batches that were used already
                are read again and dropped.
            loss: scalar loss of the model on one batch, the mean over its samples; or a `StepOutput`, for
                `metrics`. It has to call the model that it is given, not a part of it, when several
                processes train.
            validate: metrics of the model after an epoch, under the names that it gives.
            validation_batches: `loss` and `metrics` over these after an epoch, under their names with
                ``validation_`` before.
            metrics: name -> metric of `StepOutput`'s predictions and targets.
            optimiser: makes the optimiser for the model; default: AdamW. Each parameter group's learning rate
                is multiplied by the schedule's factor.
            resume: a folder of `Checkpointing`: go on from its newest readable checkpoint, if it has any.

        Returns:
            What was done.

        Raises:
            TrainingError: the loss is not finite, or there are no batches or nothing to train.
            SettingsError: the device is not here.
            CheckpointError: there are checkpoints, and none can be read.
            ForeignCheckpointError: the checkpoint belongs to another training.
        """
        if not any(p.requires_grad for p in model.parameters()):
            raise TrainingError("The model has no parameters to train.")
        config = self.config
        found = newest_checkpoint(Path(resume)) if resume is not None else None
        # Batches are drawn from one seed everywhere; the rest, as dropout, differs between processes.
        seed_everything(config.seed + distributed.rank(), deterministic=config.deterministic)
        device = pick_device(config.device, model)
        execution = self._execution(model, train_batches, loss, device, found[1] if found else None)
        loop = Loop(
            config,
            self.callbacks,
            execution.place(model, device),
            device=device,
            execution=execution,
            optimiser=optimiser or self._adamw,
            loss=loss,
            batches=train_batches,
            validate=validate,
            validation_batches=validation_batches,
            metrics=metrics or {},
        )
        if found is not None:
            loop.restore(found[1])
            loop.state.resumed_from = found[0].parent
        state = loop.run()
        return FitResult(
            epochs=state.epoch,
            steps=state.step,
            history=tuple(state.history),
            stop_reason=state.stop_reason or "all epochs are done",
            execution=execution,
        )

    def _adamw(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )

    def _execution(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss,
        device: torch.device,
        snapshot: Mapping[str, Any] | None,
    ) -> Execution:
        """How to execute steps: as configured, as measured, or as the checkpoint was."""
        config = self.config
        if config.precision != "auto":
            return Execution(
                precision=config.precision, channels_last=config.channels_last, compile=config.compile
            )
        if snapshot is not None:
            try:
                return Execution(**snapshot["execution"])
            except (KeyError, TypeError) as error:
                raise ForeignCheckpointError(f"The checkpoint lacks {error}.", value=str(error)) from error
        from xtorch.autoconfig import choose

        choice = choose(model, batches, loss, device=device, seed=config.seed, compile=config.compile)
        return distributed.from_main(choice).execution
