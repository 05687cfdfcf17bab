"""One training, from its first step or from a checkpoint to its end: what `Trainer.fit` runs."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xtorch import distributed
from xtorch.callbacks.base import Callback, TrainState
from xtorch.checkpoint import whole
from xtorch.determinism import random_state, set_random_state
from xtorch.errors import TrainingError
from xtorch.execution import Execution
from xtorch.optim import remember_rates
from xtorch.resume import environment, refuse_foreign
from xtorch.streaming import StreamingMetric

if TYPE_CHECKING:
    from xtorch.trainer import TrainerConfig

Batch = Any


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What a loss function may return instead of the loss alone, so that metrics can be computed."""

    loss: Tensor
    """Scalar."""
    predictions: Tensor
    targets: Tensor
    """As the metrics take them."""


Loss = Callable[[nn.Module, Batch], Tensor | StepOutput]
Batches = Iterable[Batch] | Callable[[torch.Generator], Iterable[Batch]]
Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(kw_only=True)
class _Position:
    """Where in an epoch training is, and what the epoch started from."""

    batches: int = 0
    loss_sum: float = 0.0
    random: dict[str, Any] | None = None
    """All generators' states at the epoch's start."""
    generator: Tensor | None = None
    """The batches' generator's."""
    loader: Mapping[str, Any] | None = None
    """What the source of batches has to be given to go on, where it can."""


class Loop:
    """The state of one training and the steps that change it.

    Args:
        config: how to train.
        callbacks: those of this process.
        model: on its device.
        device: the model's.
        execution: how to execute steps.
        optimiser: makes one for the model.
        loss, batches, validate, validation_batches, metrics: as for `Trainer.fit`.
    """

    def __init__(
        self,
        config: TrainerConfig,
        callbacks: Sequence[Callback],
        model: nn.Module,
        *,
        device: torch.device,
        execution: Execution,
        optimiser: Callable[[nn.Module], torch.optim.Optimizer],
        loss: Loss,
        batches: Batches,
        validate: Validate | None,
        validation_batches: Iterable[Batch] | None,
        metrics: Mapping[str, StreamingMetric],
    ) -> None:
        self.config, self.callbacks = config, callbacks
        self.device, self.execution = device, execution
        self.loss, self.batches, self.metrics = loss, batches, metrics
        self.validate, self.validation_batches = validate, validation_batches
        self.wrapped = distributed.wrap(model, config.parallel, device)
        self.forward: nn.Module = self.wrapped
        if execution.compile:
            self.forward = torch.compile(self.wrapped, backend=config.compile_backend)  # type: ignore[assignment]
        self.optimiser = optimiser(model)
        remember_rates(self.optimiser.param_groups)
        self.scaler = execution.scaler(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.state = TrainState(
            model=model, max_epochs=config.max_epochs, steps_per_epoch=self._steps_per_epoch()
        )
        self.position = _Position()
        self._resumed_within_epoch = False
        self._resumed_callbacks: list[dict[str, Any]] | None = None

    def run(self) -> TrainState:
        """Train to the end."""
        state = self.state
        self._tell("on_train_begin")
        if self._resumed_callbacks is not None:
            for callback, saved in zip(self.callbacks, self._resumed_callbacks, strict=True):
                callback.load_state_dict(saved["state"])
        try:
            while self._resumed_within_epoch or (
                state.epoch < self.config.max_epochs and state.stop_reason is None
            ):
                self._epoch()
            if state.averaged is not None:
                state.model.load_state_dict(state.averaged)
        finally:
            state.model.eval()
            self._tell("on_train_end")
        return state

    # One epoch.

    def _epoch(self) -> None:
        state, position = self.state, self.position
        batches = self._open()
        state.model.train()
        # A callback's wish to stop ends the epoch; resumed after that, its validation is still to come.
        for group in _groups(batches, self.config.accumulate) if state.stop_reason is None else ():
            self._tell("on_batch_begin")
            self._step(group)
            self._tell("on_batch_end")
            self._agree(batches)
            if state.stop_reason is not None:
                break
        if state.steps_in_epoch == 0:
            raise TrainingError(
                "There are no training batches.",
                hint="is the dataset smaller than a batch, and drop_last set?",
            )
        state.model.eval()
        metrics = {"loss": distributed.mean(position.loss_sum / state.steps_in_epoch)}
        metrics |= self._computed()
        metrics |= distributed.from_main(self._validated())
        state.epoch += 1
        state.metrics = metrics
        state.history.append(metrics)
        state.steps_in_epoch = 0
        self.position = _Position()
        self._tell("on_epoch_end")
        self._agree(batches)

    def _open(self) -> Iterable[Batch]:
        """The epoch's batches; where training resumes within the epoch, those that are left."""
        state = self.state
        now = random_state(), self.generator.get_state()
        resumed = self._resumed_within_epoch
        self._resumed_within_epoch = False
        if resumed:
            # Draw what the epoch drew before it was interrupted: its order, and whatever loaders seed.
            assert self.position.random is not None
            assert self.position.generator is not None
            set_random_state(self.position.random)
            self.generator.set_state(self.position.generator)
        else:
            for metric in self.metrics.values():
                metric.reset()
            self.position.random, self.position.generator = now
            self._tell("on_epoch_begin")
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(state.epoch)
        batches = self.batches if hasattr(self.batches, "__iter__") else self.batches(self.generator)
        loader, self.position.loader = self.position.loader, None
        if loader is not None:
            batches.load_state_dict(loader)  # type: ignore[union-attr]
        if not resumed:
            return batches
        if self._all_read():
            # A source's state after its last batch may be that of its next epoch: it is not asked.
            rest = _Continued(batches, iter(()))
        else:
            rest = _Continued(batches, iter(batches), skip=0 if loader is not None else self.position.batches)
        set_random_state(now[0])
        self.generator.set_state(now[1])
        return rest

    def _all_read(self) -> bool:
        """Whether the interrupted epoch's batches were all used, where their number is known."""
        if not hasattr(self.batches, "__iter__"):
            return False
        try:
            return self.position.batches >= len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return False

    def _step(self, group: Sequence[Batch]) -> None:
        """One optimiser step: the gradient is the mean over the group's batches."""
        state = self.state
        state.learning_rate = self._set_rate()
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for index, batch in enumerate(group):
            with distributed.gradients_stay_local(self.wrapped, index < len(group) - 1):
                value = self._loss(self.forward, batch)
                total += float(value.detach())
                if not math.isfinite(total):
                    raise TrainingError(
                        f"The loss is {total} in epoch {state.epoch}.",
                        value=total,
                        hint="lower the learning rate, or look for broken values in the data",
                    )
                self.scaler.scale(value / len(group)).backward()
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(
                [p for entry in self.optimiser.param_groups for p in entry["params"]], self.config.clip_norm
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        state.loss = total / len(group)
        state.step += 1
        state.steps_in_epoch += 1
        self.position.batches += len(group)
        self.position.loss_sum += state.loss

    def _loss(self, model: nn.Module, batch: Batch, weight: list[int] | None = None) -> Tensor:
        """The loss of a batch; the metrics are told."""
        with self.execution.autocast(self.device):
            output = self.loss(model, self.execution.move(batch, self.device))
        if isinstance(output, Tensor):
            return output
        if weight is not None:
            weight.append(len(output.targets))
        if self.metrics:
            predictions, targets = output.predictions.detach(), output.targets.detach()
            if predictions.dtype in (torch.bfloat16, torch.float16):
                predictions = predictions.float()
            for metric in self.metrics.values():
                metric.update(predictions.cpu().numpy(), targets.cpu().numpy())
        return output.loss

    def _steps_per_epoch(self) -> int | None:
        if self.config.steps_per_epoch is not None:
            return self.config.steps_per_epoch
        if not hasattr(self.batches, "__len__"):
            return None
        with contextlib.suppress(TypeError):  # a torch DataLoader of an iterable dataset has no length
            return math.ceil(len(self.batches) / self.config.accumulate)  # type: ignore[arg-type]
        return None

    def _set_rate(self) -> float:
        """Sets every group's learning rate for the coming step; returns the first's."""
        state, steps = self.state, self.state.steps_per_epoch
        if steps:
            epoch, step = state.epoch + min(state.steps_in_epoch / steps, 1.0), 1 / steps
        else:
            epoch, step = float(state.epoch), 1.0
        factor = self.config.rates.factor(epoch, step, self.config.max_epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return float(self.optimiser.param_groups[0]["lr"])

    # Metrics.

    def _computed(self, prefix: str = "") -> dict[str, float]:
        """The metrics over all processes, with their states emptied."""
        values = {}
        for name, metric in self.metrics.items():
            states = distributed.gather(metric.state())
            metric.reset()
            for state in states:
                metric.add(state)
            values[prefix + name] = float(metric.compute())
            metric.reset()
        return values

    def _validated(self) -> dict[str, float]:
        """What validation gives, with averaged weights where a callback averages."""
        values: dict[str, float] = {}
        no_gradients = torch.inference_mode if distributed.world_size() == 1 else torch.no_grad
        with _averaged(self.state):
            self.state.model.eval()
            with no_gradients():
                if self.validation_batches is not None:
                    values |= self._validation_loss()
                if self.validate is not None:
                    values |= {name: float(value) for name, value in self.validate(self.state.model).items()}
        return values

    def _validation_loss(self) -> dict[str, float]:
        assert self.validation_batches is not None
        total = weight = 0.0
        for batch in self.validation_batches:
            sizes: list[int] = []
            value = float(self._loss(self.state.model, batch, sizes))
            size = sizes[0] if sizes else 1
            total += value * size
            weight += size
        mean = (
            distributed.mean(total / weight if weight else 0.0, weight) if weight or _several() else math.nan
        )
        return {"validation_loss": mean, **self._computed("validation_")}

    # Callbacks and checkpoints.

    def _tell(self, moment: str) -> None:
        for callback in self.callbacks:
            if not callback.main_process_only or distributed.rank() == 0:
                getattr(callback, moment)(self.state)

    def _agree(self, batches: Iterable[Batch]) -> None:
        """What one process's callbacks wish, all do: stop, save."""
        state = self.state
        stop, save = distributed.any_of((state.stop_reason is not None, state.save_due), self.device)
        if stop and _several():
            state.stop_reason = next(reason for reason in distributed.gather(state.stop_reason) if reason)
        state.save_due = False
        if save:
            snapshot = self._snapshot(batches)
            for callback in self.callbacks:
                callback.on_checkpoint(state, snapshot)

    def _snapshot(self, batches: Iterable[Batch]) -> dict[str, Any]:
        state, position = self.state, self.position
        process: dict[str, Any] = {
            "random": random_state(),
            "generator": self.generator.get_state(),
            "position": {field.name: getattr(position, field.name) for field in fields(position)},
            "metrics": {name: metric.state() for name, metric in self.metrics.items()},
        }
        within_epoch = state.steps_in_epoch > 0
        source = batches.source if isinstance(batches, _Continued) else batches
        # Between epochs, `set_epoch` says all that there is to say.
        between = source is self.batches and not hasattr(source, "set_epoch")
        if hasattr(source, "state_dict") and (within_epoch or between):
            process["position"]["loader"] = source.state_dict()
        snapshot = {
            "settings": _settings(self.config),
            "execution": vars(self.execution),
            "environment": environment(),
            "epoch": state.epoch,
            "step": state.step,
            "steps_in_epoch": state.steps_in_epoch,
            "metrics": state.metrics,
            "history": state.history,
            "stop_reason": state.stop_reason,
            "model": whole(state.model.state_dict()),
            "optimiser": whole(self.optimiser.state_dict()),
            "scaler": self.scaler.state_dict(),
            "callbacks": [
                {"name": type(callback).__name__, "state": whole(callback.state_dict())}
                for callback in self.callbacks
            ],
            "processes": distributed.gather(process),
        }
        return snapshot if distributed.rank() == 0 else {}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot instead of from the start.

        Raises:
            ForeignCheckpointError: it is of another training.
        """
        state = self.state
        refuse_foreign(
            snapshot,
            settings=_settings(self.config),
            model=state.model,
            optimiser=self.optimiser,
            callbacks=self.callbacks,
            metrics=self.metrics,
        )
        own = state.model.state_dict()
        state.model.load_state_dict(
            {name: distributed.like(own[name], tensor) for name, tensor in snapshot["model"].items()}
        )
        self.optimiser.load_state_dict(self._sharded(snapshot["optimiser"]))
        if snapshot["scaler"]:
            self.scaler.load_state_dict(snapshot["scaler"])
        state.epoch, state.step = snapshot["epoch"], snapshot["step"]
        state.steps_in_epoch = snapshot["steps_in_epoch"]
        state.metrics, state.history = snapshot["metrics"], list(snapshot["history"])
        state.stop_reason = snapshot["stop_reason"]
        process = snapshot["processes"][distributed.rank()]
        self.position = _Position(**process["position"])
        for name, metric in self.metrics.items():
            metric.reset()
            metric.add(process["metrics"][name])
        self.generator.set_state(process["generator"])
        set_random_state(process["random"])
        self._resumed_within_epoch = state.steps_in_epoch > 0
        self._resumed_callbacks = snapshot["callbacks"]

    def _sharded(self, optimiser: Mapping[str, Any]) -> dict[str, Any]:
        """An optimiser's state with its tensors sharded like the parameters that they belong to."""
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        entries = {
            index: {
                key: distributed.like(parameters[index], value)
                if isinstance(value, Tensor) and value.shape == parameters[index].shape and value.ndim > 0
                else value
                for key, value in entry.items()
            }
            for index, entry in optimiser["state"].items()
        }
        return {**optimiser, "state": entries}


class _Continued(Iterable[Batch]):
    """Batches from a position on. They are skipped at once, so that generators stand where they stood."""

    def __init__(self, source: Iterable[Batch], rest: Iterator[Batch], *, skip: int = 0) -> None:
        self.source = source
        self._rest = rest
        for _ in range(skip):
            next(self._rest, None)

    def __iter__(self) -> Iterator[Batch]:
        return self._rest


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


@contextlib.contextmanager
def _averaged(state: TrainState) -> Iterator[None]:
    """With the averaged weights in the model, where there are any."""
    if state.averaged is None:
        yield
        return
    own = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
    state.model.load_state_dict(state.averaged)
    try:
        yield
    finally:
        state.model.load_state_dict(own)


def _settings(config: TrainerConfig) -> dict[str, str]:
    """Every setting as text, to compare."""
    return {field.name: repr(getattr(config, field.name)) for field in fields(config)}


def _several() -> bool:
    return distributed.world_size() > 1
