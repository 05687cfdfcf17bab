"""Arrays by the content that they were computed from, kept on disk between runs.

``<cache_dir>/features/<recipe>/<ab>/<digest>.npy``, where the recipe names everything that an array depends
on but the content. A file is written under a temporary name first; one that cannot be read is as good as
none.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
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

    def load(self, digest: str) -> np.ndarray | None:
        """The array of a content (``sha256:…``), if there is one."""
        if self._folder is None:
            return None
        try:
            values: np.ndarray = np.load(self._path(digest), allow_pickle=False)
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
