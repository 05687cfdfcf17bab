"""Makes a batch out of samples: what every worker does, whether it is a thread, a process or neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from xtorch.data.loading.randomness import (
    Purpose,
    draws_from_globals,
    generator,
    global_state,
    seeded_globals,
)
from xtorch.errors import SampleError

OnError = Literal["raise", "skip"]
Collate = Callable[[Sequence[Any]], Any]
BatchTransform = Callable[[Any, np.random.Generator], Any]


class MapDataset(Protocol):
    """Samples by number. What is random in them comes from the process's generators, seeded for each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class SeededDataset(Protocol):
    """Samples by number and generator: the better form, since threads can share it.

    A method ``describe(index) -> str`` names a sample in errors.
    """

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator, /) -> Any: ...


Dataset = MapDataset | SeededDataset


@dataclass(frozen=True, kw_only=True)
class Task:
    """One batch to be made."""

    epoch: int
    number: int
    """In the epoch, from 0."""
    indices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A sample that could not be loaded, or a batch that could not be put together."""

    epoch: int
    indices: tuple[int, ...]
    name: str
    """Of the sample or the batch, for people."""
    of_batch: bool
    """Whether the samples were loaded, but could not be put together: nothing that can be skipped."""
    reason: str
    """The error's type and message."""
    code: str | None
    """Of the error, where it has one."""
    hint: str | None

    def error(self) -> SampleError:
        """The failure as an exception."""
        if self.of_batch:
            hint = self.hint or "samples of one batch must have the same fields, shapes and types"
            return SampleError(f"{self.name} cannot be made: {self.reason}", value=self.indices, hint=hint)
        hint = self.hint or "mend or remove the sample, or load with on_error='skip'"
        return SampleError(f"{self.name} cannot be loaded: {self.reason}", value=self.indices[0], hint=hint)


class Fetched(NamedTuple):
    """What became of a task."""

    data: Any
    empty: bool
    """Whether there is no batch, since something failed."""
    failures: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Loads samples and puts them together. Travels to worker processes."""

    dataset: Dataset
    seed: int
    collate: Collate
    batch_transform: BatchTransform | None = None
    on_error: OnError = "raise"
    pin: bool = False
    """Whether tensors end in page-locked memory."""

    def __call__(self, task: Task) -> Fetched:
        samples: list[Any] = []
        failures: list[Failure] = []
        for index in task.indices:
            try:
                samples.append(self.sample(task.epoch, index))
            except Exception as error:
                failures.append(_failure(task.epoch, (index,), self.describe(index), error))
                if self.on_error == "raise":
                    return Fetched(None, True, tuple(failures))
        if not samples:
            return Fetched(None, True, tuple(failures))
        try:
            data = self.collate(samples)
            if self.batch_transform is not None:
                rng = generator(self.seed, task.epoch, Purpose.BATCH, task.number)
                data = self.batch_transform(data, rng)
            return Fetched(pinned(data) if self.pin else data, False, tuple(failures))
        except Exception as error:
            names = ", ".join(self.describe(index) for index in task.indices[:3])
            more = ", ..." if len(task.indices) > 3 else ""
            name = f"Batch {task.number} ({names}{more})"
            whole = _failure(task.epoch, task.indices, name, error, of_batch=True)
            return Fetched(None, True, (*failures, whole))

    def sample(self, epoch: int, index: int) -> Any:
        """A sample as it is in an epoch."""
        if hasattr(self.dataset, "sample"):
            return self.dataset.sample(index, generator(self.seed, epoch, Purpose.SAMPLE, index))
        with seeded_globals(self.seed, epoch, index):
            return self.dataset[index]

    def describe(self, index: int) -> str:
        """A sample's name for people."""
        describe = getattr(self.dataset, "describe", None)
        if describe is None:
            return f"Sample {index}"
        try:
            return f"Sample {index} ({describe(index)})"
        except Exception:
            # A name is a courtesy; a dataset that cannot give one must not hide the error it is wanted for.
            return f"Sample {index}"

    def thread_safe(self, indices: Sequence[int]) -> bool:
        """False if a dataset without `sample` draws from the process's generators for any of some samples."""
        if hasattr(self.dataset, "sample"):
            return True
        for index in indices:
            with seeded_globals(self.seed, 0, index):
                before = global_state()
                try:
                    self.dataset[index]
                except Exception:  # noqa: S112
                    continue  # a broken sample is reported when its turn comes
                if draws_from_globals(before):
                    return False
        return True


def _failure(
    epoch: int, indices: tuple[int, ...], name: str, error: Exception, *, of_batch: bool = False
) -> Failure:
    # The exception itself stays: it may not survive the way from another process.
    return Failure(
        epoch=epoch,
        indices=indices,
        name=name,
        of_batch=of_batch,
        reason=f"{type(error).__name__}: {error}",
        code=getattr(error, "code", None),
        hint=getattr(error, "hint", None),
    )


def pinned(data: Any) -> Any:
    """The batch with its CPU tensors in page-locked memory, from which GPUs copy without waiting."""
    return map_tensors(data, lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)


def map_tensors(data: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A function applied to all tensors in mappings, lists and (named) tuples; the rest stays as it is."""
    if isinstance(data, torch.Tensor):
        return function(data)
    if isinstance(data, Mapping):
        return {key: map_tensors(value, function) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(map_tensors(value, function) for value in data))
    if isinstance(data, list | tuple):
        return type(data)(map_tensors(value, function) for value in data)
    return data
