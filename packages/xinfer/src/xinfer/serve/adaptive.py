"""One engine, loaded twice: all cores on a lone request, one core on each of many.

One stream over all threads gives the shortest single answer, a stream per core the most answers. Which
pays depends on how many callers there are at the moment: the gateway keeps both and decides per request.
"""

from __future__ import annotations

import threading

import numpy as np

from xinfer.engine import InferenceEngine
from xinfer.manifest import Manifest
from xinfer.tasks import TaskSpec


class AdaptiveEngine:
    """Runs an inference on `alone` if no other is under way, else on `together`.

    Args:
        alone: One stream over all threads.
        together: A stream per core.

    Both are of the same file, and owned by this object from here on.
    """

    def __init__(self, alone: InferenceEngine, together: InferenceEngine) -> None:
        self._alone = alone
        self._together = together
        self._lock = threading.Lock()
        self._num_running = 0

    @property
    def manifest(self) -> Manifest:
        return self._together.manifest

    @property
    def task(self) -> TaskSpec | None:
        return self._together.task

    def infer(self, feeds: dict[str, np.ndarray], /) -> dict[str, np.ndarray]:
        with self._lock:
            engine = self._together if self._num_running else self._alone
            self._num_running += 1
        try:
            return engine.infer(feeds)
        finally:
            with self._lock:
                self._num_running -= 1

    def close(self) -> None:
        self._alone.close()
        self._together.close()
