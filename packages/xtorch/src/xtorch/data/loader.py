"""`ExtendedDataLoader`: the same batches whatever loads them, as fast as this machine can, from anywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch

from xtorch.data.loading.choose import Choice, choose
from xtorch.data.loading.collate import collate as default_collate
from xtorch.data.loading.device import moved
from xtorch.data.loading.fetch import BatchTransform, Dataset, Failure, Fetched, Fetcher, OnError, Task
from xtorch.data.loading.randomness import Purpose, generator
from xtorch.data.loading.sources import Kind, Source, open_source
from xtorch.errors import DataError, ForeignCheckpointError, SettingsError

_log = logging.getLogger(__name__)
_STATE_VERSION = 1


@runtime_checkable
class Cacheable(Protocol):
    """A dataset that can keep what is expensive about its samples."""

    def with_cache(self, cache: Any, /) -> Dataset:
        """The same dataset, using a cache."""


class ExtendedDataLoader:
    """Batches of a dataset.

    The order of samples and the random state of each are functions of seed and epoch alone. So the number and
    the kind of workers change nothing but speed, and training that is resumed in the middle of an epoch gets
    exactly the batches that were left.

    Each iteration is an epoch. One that was left early is over too: the next iteration is the next epoch,
    unless `load_state_dict` says otherwise.

    Args:
        dataset: has ``__len__`` and either ``sample(index, rng)`` (`SeededDataset`) or ``__getitem__(index)``
            (`MapDataset`).
        batch_size: samples in a batch.
        shuffle: another order in every epoch.
        seed: of order and samples, not negative.
        workers: how many; "auto" measures; 0: none.
        kind: "threads", "processes", "none", or "auto", which measures on the dataset (`choice` says the
            rates).
        drop_last: leave out a last batch that is smaller than the others.
        collate: makes a batch of a list of samples. Default: `xtorch.data.loading.collate.collate`.
        batch_transform: changes a batch at random, such as mixup: called with it and a generator of its own.
        prefetch: batches made ahead, for each worker.
        pin_memory: batches in page-locked memory; "auto": where there is a CUDA device.
        device: where batches are moved, on CUDA one ahead; None: they stay on the CPU.
        cache: handed to the dataset's `with_cache`, such as a `xtorch.data.decode_cache.DecodeCache`.
        on_error: "raise" a `SampleError` for a sample that fails; "skip": leave it out, warn, and list it in
            `failures`.
        shard: (rank, number of processes): every process gets its part of each epoch, equally many samples.
        measure_s: about how long choosing workers may take, seconds.

    Raises:
        SettingsError: a setting is out of range, or the dataset does not fit it.
        DataError: the dataset is empty.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        workers: int | Literal["auto"] = "auto",
        kind: Kind | Literal["auto"] = "auto",
        drop_last: bool = False,
        collate: Callable[[Sequence[Any]], Any] | None = None,
        batch_transform: BatchTransform | None = None,
        prefetch: int = 2,
        pin_memory: bool | Literal["auto"] = "auto",
        device: str | torch.device | None = None,
        cache: Any = None,
        on_error: OnError = "raise",
        shard: tuple[int, int] = (0, 1),
        measure_s: float = 2.0,
    ) -> None:
        _check_dataset(dataset)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("prefetch", prefetch, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise SettingsError(f"{name} must be at least {least}.", value=value)
        if workers != "auto" and workers < 0:
            raise SettingsError("workers must be 'auto' or not negative.", value=workers)
        if kind not in ("auto", "threads", "processes", "none"):
            raise SettingsError("kind must be auto, threads, processes or none.", value=kind)
        if on_error not in ("raise", "skip"):
            raise SettingsError("on_error must be raise or skip.", value=on_error)
        if not 0 <= shard[0] < shard[1]:
            raise SettingsError("shard must be (rank, number of processes).", value=shard)
        if cache is not None and not isinstance(dataset, Cacheable):
            raise SettingsError(
                "This dataset cannot use a cache.",
                value=type(dataset).__name__,
                hint="use xtorch.data.decode.ImageFiles, or give the dataset a method with_cache(cache)",
            )
        self.dataset = dataset
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        self.workers, self.kind, self.prefetch, self.shard = workers, kind, prefetch, shard
        self.device = None if device is None else torch.device(device)
        self.failures: list[Failure] = []
        """Samples that were skipped, in all epochs."""
        self._measure_s = measure_s
        self._fetcher = Fetcher(
            dataset=dataset,
            seed=seed,
            collate=collate or default_collate,
            batch_transform=batch_transform,
            on_error=on_error,
            pin=torch.cuda.is_available() if pin_memory == "auto" else pin_memory,
        )
        self._cache = cache
        self._choice: Choice | None = None
        self._source: Source | None = None
        self._now = self._next = (0, 0)
        if len(self) == 0:
            raise DataError(
                f"There are no batches: {len(dataset)} samples, batch size {batch_size}.",
                value=len(dataset),
                hint="use a smaller batch_size, or keep the last batch with drop_last=False",
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        samples = self._samples_in_shard()
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    @property
    def choice(self) -> Choice:
        """The workers, and the rates that were measured to choose them; measures when first asked."""
        if self._choice is None:
            self._choice = choose(
                self._fetcher,
                batch_size=self.batch_size,
                kind=self.kind,
                workers=self.workers,
                prefetch=self.prefetch,
                measure_s=self._measure_s,
            )
        return self._choice

    def __iter__(self) -> Iterator[Any]:
        """The epoch's batches.

        Raises:
            SampleError: a sample cannot be loaded; it names the sample.
            WorkerError: a worker process died.
        """
        epoch, start = self._now = self._next
        self._next = (epoch + 1, 0)
        batches = self._checked(self._open().batches(self._tasks(epoch)[start:]))
        if self.device is not None:
            batches = moved(batches, self.device)
        return self._counted(batches, epoch, start)

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch, from its start."""
        if epoch < 0:
            raise SettingsError("epoch must not be negative.", value=epoch)
        self._now = self._next = (epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, as JSON values: epoch and batches handed out, and what they depend on."""
        epoch, position = self._now
        return {
            "version": _STATE_VERSION,
            "epoch": epoch,
            "position": position,
            **self._settings(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on from there.

        Raises:
            ForeignCheckpointError: the state is of another dataset or other settings; batches would differ.
        """
        try:
            version, epoch, position = (int(state[name]) for name in ("version", "epoch", "position"))
            settings = {name: state[name] for name in self._settings()}
        except (KeyError, TypeError, ValueError) as error:
            raise ForeignCheckpointError(
                f"This is no state of a loader: {error!r}.", value=str(state)
            ) from error
        # JSON and safetensors know no tuples.
        settings["shard"] = list(settings["shard"])
        differing = {
            name: (settings[name], value)
            for name, value in self._settings().items()
            if settings[name] != value
        }
        if version != _STATE_VERSION or differing or not (0 <= position <= len(self) and epoch >= 0):
            told = ", ".join(f"{name} {was!r} then, {now!r} now" for name, (was, now) in differing.items())
            raise ForeignCheckpointError(
                f"The state does not fit this loader: {told or f'version {version}, {epoch=}, {position=}'}.",
                value=differing or dict(state),
            )
        self._now = self._next = (epoch, position) if position < len(self) else (epoch + 1, 0)

    def close(self) -> None:
        """Ends the workers. The loader can still be iterated; they are started again."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _settings(self) -> dict[str, Any]:
        return {
            "num_samples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "shard": list(self.shard),
        }

    def _samples_in_shard(self) -> int:
        samples, (_, parts) = len(self.dataset), self.shard
        return samples // parts if self.drop_last else -(-samples // parts)

    def _tasks(self, epoch: int) -> list[Task]:
        """The epoch's batches, as indices."""
        num_samples = len(self.dataset)
        order = list(range(num_samples))
        if self.shuffle:
            order = generator(self.seed, epoch, Purpose.ORDER).permutation(num_samples).tolist()
        rank, parts = self.shard
        in_shard = self._samples_in_shard()
        # Without drop_last the first samples fill up the last processes' parts, as in `DistributedSampler`.
        part = [order[(rank + index * parts) % num_samples] for index in range(in_shard)]
        size = self.batch_size
        return [
            # Numbered over all processes: their batches are transformed differently.
            Task(
                epoch=epoch,
                number=number * parts + rank,
                indices=tuple(part[number * size : (number + 1) * size]),
            )
            for number in range(len(self))
        ]

    def _open(self) -> Source:
        if self._source is None:
            choice, fetcher = self.choice, self._fetcher
            if self._cache is not None:
                assert isinstance(self.dataset, Cacheable)
                fetcher = replace(fetcher, dataset=self.dataset.with_cache(self._cache))
            self._source = open_source(
                choice.kind, fetcher, num_workers=choice.num_workers, prefetch=self.prefetch
            )
        return self._source

    def _checked(self, batches: Iterator[Fetched]) -> Iterator[tuple[Any, ...]]:
        """Batches in 1-tuples, () for one of which nothing is left; failures are raised or noted."""
        for data, empty, failures in batches:
            for failure in failures:
                if self._fetcher.on_error == "raise" or failure.of_batch:
                    raise failure.error()
                _log.warning("Skipped: %s cannot be loaded: %s", failure.name, failure.reason)
                self.failures.append(failure)
            yield () if empty else (data,)

    def _counted(self, batches: Iterator[tuple[Any, ...]], epoch: int, position: int) -> Iterator[Any]:
        for batch in batches:
            position += 1
            # Before it is handed out: a state taken while the batch is in use counts it as used.
            self._now = (epoch, position) if position < len(self) else (epoch + 1, 0)
            yield from batch


def _check_dataset(dataset: Any) -> None:
    if not hasattr(dataset, "__len__") or not (hasattr(dataset, "sample") or hasattr(dataset, "__getitem__")):
        raise SettingsError(
            "The dataset must have __len__ and sample(index, rng) or __getitem__(index).",
            value=type(dataset).__name__,
            hint="datasets that can only be iterated cannot be resumed; list their samples first",
        )
