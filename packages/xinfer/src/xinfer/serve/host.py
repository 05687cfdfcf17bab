"""Engines in memory and the threads that run them.

Three objects, each with one concern:

- `EngineHost`: a loaded engine that is closed when it was retired and its last request is done.
- `Catalogue`: endpoint name -> endpoint; replaced as a whole, so a request sees the old or the new state.
- `WorkerPool`: one thread per core and a bounded queue before them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from xinfer.manifest import Manifest
from xinfer.serve.errors import ProblemError
from xinfer.tasks import TaskSpec

if TYPE_CHECKING:
    from xinfer.zoo.base import TaskRunner

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Engine(Protocol):
    """What the gateway needs of `xinfer.InferenceEngine`."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def task(self) -> TaskSpec | None: ...
    def infer(self, feeds: dict[str, np.ndarray], /) -> dict[str, np.ndarray]: ...
    def close(self) -> None: ...


class EngineHost:
    """A loaded engine, shared by requests.

    Args:
        engine: Thread-safe; owned by the host from here on.
        digest: Of the engine's file.
        public_key: What its signature was checked with; None where no check was asked for.
        runner: Turns inputs into tensors and tensors into results; None: the engine has no task.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        digest: str,
        public_key: bytes | None,
        runner: TaskRunner[Any, Any] | None = None,
    ) -> None:
        self.engine = engine
        self.runner = runner
        self.digest = digest
        self.public_key = public_key
        self._lock = threading.Lock()
        self._num_users = 0
        self._retired = False

    def acquire(self) -> bool:
        """Take part in using the engine. False: it was retired; look for its successor."""
        with self._lock:
            if self._retired:
                return False
            self._num_users += 1
            return True

    def release(self) -> None:
        with self._lock:
            self._num_users -= 1
            last = self._retired and self._num_users == 0
        if last:
            # Closing frees much memory; the event loop, which releases, has better things to do.
            threading.Thread(target=self.engine.close, name="close-engine").start()

    def retire(self) -> None:
        """No new requests; close now or after the last request."""
        with self._lock:
            assert not self._retired
            self._retired = True
            idle = self._num_users == 0
        if idle:
            self.engine.close()


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A name, the keys that open it (None: no key is asked for) and the engine behind it."""

    name: str
    key_sha256: tuple[str, ...] | None
    host: EngineHost

    @property
    def version(self) -> str:
        return str(self.host.engine.manifest.identity.version)


class Catalogue:
    """The endpoints that are live now. Readers need no lock: the map is replaced, never changed."""

    def __init__(self) -> None:
        self._endpoints: dict[str, Endpoint] = {}

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        return self._endpoints

    def replace(self, endpoints: dict[str, Endpoint]) -> None:
        """Make `endpoints` the live ones; engines that none of them uses drain and close."""
        before = {id(endpoint.host): endpoint.host for endpoint in self._endpoints.values()}
        self._endpoints = endpoints
        kept = {id(endpoint.host) for endpoint in endpoints.values()}
        for key, host in before.items():
            if key not in kept:
                host.retire()

    @contextmanager
    def lease(self, name: str) -> Iterator[Endpoint]:
        """The endpoint, whose engine stays open meanwhile.

        Raises:
            ProblemError: there is none of this name (any more).
        """
        while endpoint := self._endpoints.get(name):
            if endpoint.host.acquire():
                try:
                    yield endpoint
                finally:
                    endpoint.host.release()
                return
        raise ProblemError("endpoint.unknown", f"There is no endpoint '{name}'.")


class ClientGoneError(Exception):
    """The caller hung up while its request was queued; nobody waits for an answer."""


class WorkerPool:
    """Threads that decode, infer and encode, one per core; bounded, so that waiting stays short.

    Args:
        num_workers: Threads.
        max_queued: Requests that may wait for a thread.
    """

    def __init__(self, num_workers: int, *, max_queued: int) -> None:
        self.num_workers = num_workers
        self._capacity = num_workers + max_queued
        self._executor = ThreadPoolExecutor(num_workers, thread_name_prefix="worker")
        self.in_flight = 0

    async def run(self, work: Callable[[], T], client_gone: Callable[[], Awaitable[Any]]) -> T:
        """Run `work` in a thread.

        Args:
            client_gone: Returns when the caller has hung up; work that is still queued is then dropped.

        Raises:
            ProblemError: the queue is full.
            ClientGoneError: the work was dropped.
        """
        if self.in_flight >= self._capacity:
            raise ProblemError(
                "gateway.overloaded",
                f"{self.in_flight} requests are in progress or waiting.",
                headers={"Retry-After": "1"},
            )
        starts_at_once = self.in_flight < self.num_workers
        self.in_flight += 1
        try:
            future = self._executor.submit(work)
            answer = asyncio.wrap_future(future)
            if not starts_at_once:
                watcher = asyncio.ensure_future(client_gone())
                try:
                    await asyncio.wait((answer, watcher), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    watcher.cancel()
                if not answer.done() and future.cancel():
                    raise ClientGoneError
            return await answer
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)
