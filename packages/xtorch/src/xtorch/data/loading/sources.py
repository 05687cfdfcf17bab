"""Where batches are made: here, in threads, or in processes. All give the same batches in the same order."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pickle import PicklingError
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from xtorch.data.loading.fetch import Fetched, Fetcher, Task
from xtorch.errors import SettingsError, WorkerError

Kind = Literal["none", "threads", "processes"]


class Source(ABC):
    """Makes batches, several ahead of the one that is wanted."""

    @abstractmethod
    def batches(self, tasks: Sequence[Task]) -> Iterator[Fetched]:
        """The tasks' batches, in order. An iterator that was left early costs nothing but the work begun."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers; returns when they have ended."""


def open_source(kind: Kind, fetcher: Fetcher, *, num_workers: int, prefetch: int) -> Source:
    """A source of batches.

    Raises:
        SettingsError: the fetcher cannot work with this kind of workers.
    """
    if kind == "threads":
        return ThreadSource(fetcher, num_workers, prefetch)
    if kind == "processes":
        return ProcessSource(fetcher, num_workers, prefetch)
    return InlineSource(fetcher)


class InlineSource(Source):
    """Makes each batch when it is asked for."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def batches(self, tasks: Sequence[Task]) -> Iterator[Fetched]:
        return map(self._fetcher, tasks)

    def close(self) -> None:
        pass


class ThreadSource(Source):
    """Makes batches in threads: nothing is copied between them, but Python code runs in one at a time."""

    def __init__(self, fetcher: Fetcher, num_workers: int, prefetch: int) -> None:
        if not fetcher.thread_safe(range(min(4, len(fetcher.dataset)))):
            raise SettingsError(
                "The dataset draws random numbers from the process's generators, which threads share.",
                value="threads",
                hint="give it sample(index, rng) in place of __getitem__(index), or use processes",
            )
        self._fetcher = fetcher
        self._ahead = num_workers * prefetch
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="xtorch-loader")

    def batches(self, tasks: Sequence[Task]) -> Iterator[Fetched]:
        waiting: deque[Future[Fetched]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(self._fetcher, task))
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class ProcessSource(Source):
    """Makes batches in processes, which hand them over in shared memory: torch's `DataLoader`.

    The processes live until `close`, across epochs; they end by themselves when this process is killed.
    """

    def __init__(self, fetcher: Fetcher, num_workers: int, prefetch: int) -> None:
        self._tasks = _Tasks()
        self._loader: DataLoader[Any] | None = DataLoader(
            # Pages are locked in this process, by torch: workers must not touch the GPU.
            _Batches(replace(fetcher, pin=False)),
            pin_memory=fetcher.pin,
            batch_sampler=self._tasks,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=_unchanged,
            prefetch_factor=prefetch,
            persistent_workers=True,
            worker_init_fn=_calm,
            # Its own generator: torch would draw the workers' seeds from the one that training uses.
            generator=torch.Generator(),
        )

    def batches(self, tasks: Sequence[Task]) -> Iterator[Fetched]:
        if self._loader is None:
            raise SettingsError("The loader is closed.", value="closed")
        self._tasks.current = tasks
        try:
            iterator = iter(self._loader)
        except (PicklingError, TypeError, AttributeError) as error:
            raise SettingsError(
                f"The dataset cannot be sent to worker processes: {error}",
                value="processes",
                hint="use threads, or make it picklable: no lambdas, open files or local classes in it",
            ) from error
        try:
            yield from iterator
        except RuntimeError as error:
            # What fails in a sample comes back as a `Failure`; an exception is about the process itself.
            raise WorkerError(
                f"A worker process ended: {error}",
                value=str(error),
                hint="killed, most often for want of memory: use fewer workers, smaller batches, or threads",
            ) from error

    def close(self) -> None:
        loader, self._loader = self._loader, None
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            # torch ends them when the last reference goes; a traceback may hold one for long.
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.join()  # torch signals those that take their time, and does not wait for them


class _Tasks:
    """What torch takes for a batch sampler."""

    current: Sequence[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.current)

    def __len__(self) -> int:
        return len(self.current)


class _Batches(Dataset[Any]):
    """A task in, a batch out."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def __getitems__(self, task: Task) -> Fetched:
        return self._fetcher(task)

    def __len__(self) -> int:
        return len(self._fetcher.dataset)


def _unchanged(fetched: Any) -> Any:
    return fetched


def _calm(worker: int) -> None:  # noqa: ARG001
    """Workers are the threads: libraries must not start their own in each."""
    if "cv2" in sys.modules:
        import cv2

        cv2.setNumThreads(0)
