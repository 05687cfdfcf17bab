"""Who trains in `training.py`: a plain PyTorch loop, the same tuned by hand, Lightning, and xTorch.

Each is an object whose `round` trains one epoch and says how many images or tokens per second that was, from
asking for the first batch to the end of the last step. Models go on from round to round; optimisers are made
anew, as each of Lightning's and xTorch's `fit` does.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from training_workloads import Workload

from xtorch import Trainer, TrainerConfig
from xtorch.autoconfig import choose
from xtorch.callbacks import Callback, TrainState
from xtorch.data.loader import ExtendedDataLoader
from xtorch.optim import Constant


class Contestant(ABC):
    """One way to train a workload."""

    name: str
    setting = ""
    """How it is set up, for the report."""
    setup_s = 0.0
    """Seconds that it took to choose that."""

    @abstractmethod
    def round(self) -> tuple[float, list[float]]:
        """One epoch: images or tokens per second, and the loss of each step."""

    @abstractmethod
    def close(self) -> None:
        """Ends its workers."""


def data_loader(workload: Workload, dataset: Dataset[Any], workers: int) -> DataLoader[Any]:
    """torch's loader as one writes it."""
    return DataLoader(
        dataset,
        batch_size=workload.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=workload.collate,
        generator=torch.Generator().manual_seed(0),
    )


def best_workers(
    workload: Workload, dataset: Dataset[Any], loop: HandWritten, counts: tuple[int, ...]
) -> int:
    """The `num_workers` with which some steps of the loop are fastest."""
    rates = {}
    for workers in counts:
        loop.loader = data_loader(workload, dataset, workers)
        loop.round(steps=2)
        rates[workers] = loop.round(steps=4)[0]
    return max(rates, key=lambda workers: rates[workers])


class HandWritten(Contestant):
    """A loop as one writes it: in float32, or tuned with bfloat16, channels-last and reduced decoding.

    Args:
        workload: what to train.
        tuned: by hand.
        worker_counts: numbers of workers to try.
    """

    def __init__(self, workload: Workload, *, tuned: bool, worker_counts: tuple[int, ...]) -> None:
        self.name = "tuned by hand" if tuned else "plain PyTorch"
        self.workload, self.tuned = workload, tuned
        self.loader: DataLoader[Any]
        dataset = workload.tuned_dataset() if tuned else workload.plain_dataset()
        start_s = time.perf_counter()
        self._restart()
        self.num_workers = best_workers(workload, dataset, self, worker_counts)
        self.setup_s = time.perf_counter() - start_s
        self.loader = data_loader(workload, dataset, self.num_workers)
        self.setting = f"{'bf16, channels-last' if tuned else 'fp32'}, {self.num_workers} workers"
        self._restart()

    def _restart(self) -> None:
        self.model = self.workload.model().train()
        if self.tuned:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def round(self, steps: int | None = None) -> tuple[float, list[float]]:
        optimiser = self.workload.optimiser(self.model)
        losses, items = [], 0
        start_s = time.perf_counter()
        for number, batch in enumerate(self.loader, start=1):
            if self.tuned and batch[0].ndim == 4:
                batch = (batch[0].to(memory_format=torch.channels_last), *batch[1:])
            with torch.autocast("cpu", torch.bfloat16, enabled=self.tuned):
                loss = self.workload.loss(self.model, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            items += self.workload.count(batch)
            if number == steps:
                break
        return items / (time.perf_counter() - start_s), losses

    def close(self) -> None:
        del self.loader


class XTorch(Contestant):
    """xTorch with its defaults: it chooses precision, layout and workers, and says what it chose."""

    name = "xTorch"

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.rounds = 0
        start_s = time.perf_counter()
        self.loader = ExtendedDataLoader(
            workload.xtorch_dataset(),
            workload.batch_size,
            shuffle=True,
            drop_last=True,
            collate=workload.xtorch_collate,
        )
        self.model = workload.model()
        choice = choose(self.model, self.loader, workload.loss)
        self.execution = choice.execution
        self.setting = f"{choice.execution}; loading: {self.loader.choice}"
        self.setup_s = time.perf_counter() - start_s

    def round(self) -> tuple[float, list[float]]:
        clock = _Clock(self.workload)
        config = TrainerConfig(
            max_epochs=1,
            schedule=Constant(),
            clip_norm=None,
            precision=self.execution.precision,
            channels_last=self.execution.channels_last,
            seed=self.rounds,
        )
        self.loader.set_epoch(self.rounds)
        self.rounds += 1

        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            clock.items += self.workload.count(batch)
            return self.workload.loss(model, batch)

        Trainer(config, [clock]).fit(
            self.model, _Epoch(self.loader), loss=loss, optimiser=self.workload.optimiser
        )
        return clock.items / clock.seconds, clock.losses

    def close(self) -> None:
        self.loader.close()


class _Epoch:
    """The loader, without `set_epoch`: every `fit` would begin with epoch 0."""

    def __init__(self, loader: ExtendedDataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


class _Clock(Callback):
    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.items = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self._start_s = 0.0

    def on_epoch_begin(self, state: TrainState) -> None:  # noqa: ARG002
        self._start_s = time.perf_counter()

    def on_batch_end(self, state: TrainState) -> None:
        self.losses.append(state.loss)
        self.seconds = time.perf_counter() - self._start_s


class Lightning(Contestant):
    """Lightning around the plain loop's parts: its default precision, or ``bf16-mixed``."""

    def __init__(self, workload: Workload, *, num_workers: int, bf16: bool) -> None:
        self.name = "Lightning, bf16-mixed" if bf16 else "Lightning"
        self.precision = "bf16-mixed" if bf16 else "32-true"
        self.workload = workload
        self.loader = data_loader(workload, workload.plain_dataset(), num_workers)
        self.setting = f"{self.precision}, {num_workers} workers"
        self.module = _module(workload)

    def round(self) -> tuple[float, list[float]]:
        import lightning

        self.module.begin()
        with _quiet():
            trainer = lightning.Trainer(
                max_epochs=1,
                accelerator="cpu",
                precision=self.precision,  # type: ignore[arg-type]
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            trainer.fit(self.module, self.loader)
        return self.module.items / self.module.seconds, self.module.losses

    def close(self) -> None:
        del self.loader


def _module(workload: Workload) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = workload.model().train()

        def begin(self) -> None:
            self.items, self.seconds, self.losses = 0, 0.0, []  # type: ignore[var-annotated]

        def on_train_epoch_start(self) -> None:
            self.start_s = time.perf_counter()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:  # noqa: ARG002
            self.items += workload.count(batch)
            loss = workload.loss(self.model, batch)
            self.losses.append(float(loss.detach()))
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            self.seconds = time.perf_counter() - self.start_s

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return workload.optimiser(self.model)

    return Module()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice on loggers and workers is for people."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
