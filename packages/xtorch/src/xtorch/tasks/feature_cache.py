"""Arrays by the content that they were computed from, kept on disk between runs.

``<cache_dir>/features/<recipe>/<ab>/<digest>.npy``, where the recipe names everything that an array depends
on but the content. A file is written under a temporary name first; one that cannot be read is as good as
none. Its modification time is that of its last use: whoever keeps the folder small removes the oldest first.
(`xtorch.FeatureCache` keeps rows of one data set together, to be mapped; from it nothing can be removed.)
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class FeatureCache:
    """
    Args:
        cache_dir: Where it lives; None: nothing is kept.
        recipe: What arrays depend on, as JSON.
        shape: Of each array; all are float16.
    """

    def __init__(self, cache_dir: Path | None, recipe: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        name = hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:16]
        self._folder = None if cache_dir is None else Path(cache_dir) / "features" / name
        self._shape = shape

    def fill(
        self,
        digests: Sequence[str],
        compute: Callable[[Sequence[int]], np.ndarray],
        *,
        batch_size: int,
        report: Callable[[int, int], None],
    ) -> np.ndarray:
        """Arrays of many contents; those that are not kept yet are computed and kept, batch by batch.

        Args:
            digests: Of the contents (``sha256:…``), N.
            compute: Positions in `digests`, 1 <= n <= `batch_size` -> their arrays, float16 [n, *shape].
            batch_size: How many are computed at once.
            report: Called with (done, total) now and then.

        Returns:
            float16 [N, *shape].
        """
        values = np.empty((len(digests), *self._shape), dtype=np.float16)
        missing: list[int] = []
        for index, digest in enumerate(digests):
            known = self.load(digest)
            if known is None:
                missing.append(index)
            else:
                values[index] = known
        done = len(digests) - len(missing)
        report(done, len(digests))
        for start in range(0, len(missing), batch_size):
            chunk = missing[start : start + batch_size]
            for index, computed in zip(chunk, compute(chunk), strict=True):
                values[index] = computed
                self.save(digests[index], computed)
            done += len(chunk)
            report(done, len(digests))
        return values

    def load(self, digest: str) -> np.ndarray | None:
        """The array of a content (``sha256:…``), if there is one."""
        if self._folder is None:
            return None
        path = self._path(digest)
        try:
            values: np.ndarray = np.load(path, allow_pickle=False)
            os.utime(path)
        except (OSError, ValueError, EOFError):
            return None
        return values if values.shape == self._shape and values.dtype == np.float16 else None

    def save(self, digest: str, values: np.ndarray) -> None:
        """
        Args:
            values: float16, of the cache's shape.
        """
        if self._folder is None:
            return
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.npy")
        np.save(partial, values, allow_pickle=False)
        partial.replace(path)

    def _path(self, digest: str) -> Path:
        assert self._folder is not None
        name = digest.removeprefix("sha256:")
        return self._folder / name[:2] / f"{name}.npy"
