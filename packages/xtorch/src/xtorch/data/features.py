"""Features of a frozen model, computed once: what makes a trial of a head cost seconds.

    <folder>/<recipe>/recipe.json     weights, preprocessing, shape and type of the rows
    <folder>/<recipe>/rows.bin        the features, row after row
    <folder>/<recipe>/index.bin       for each row SHA-256 of its key (32 bytes), CRC-32 of its content (4)
    <folder>/<recipe>/lock            flocked while a process appends

Rows are only ever appended, before their entries in the index: a process that is killed leaves at most a tail
that the next one overwrites, and readers need no lock. A row whose checksum is wrong, as a power cut may
leave it, is taken for missing and appended anew; of several entries of a key the last counts.

Shapes: N samples; `...` a row's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.errors import DataError, SettingsError

_ENTRY = np.dtype([("key", "V32"), ("crc", "<u4")])


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """``sha256:...`` of a state dict: names, shapes, types and values.

    Args:
        state: as `Module.state_dict` gives it, on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


class FeatureCache:
    """Rows of features on disk, by key; for any number of processes at once.

    Args:
        folder: where caches of all recipes lie.
        weights: digest of the model's weights, as of `weights_digest`.
        preprocessing: JSON values: all else that features depend on but the sample: sizes, layers, the code's
            version.
        shape: of one row.
        dtype: of the rows.

    Raises:
        SettingsError: the folder cannot be used, or the shape is empty.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        weights: str,
        preprocessing: Mapping[str, Any],
        shape: Sequence[int],
        dtype: str = "float32",
    ) -> None:
        self.shape, self.dtype = tuple(int(side) for side in shape), np.dtype(dtype)
        self._row_bytes = math.prod(self.shape) * self.dtype.itemsize
        if self._row_bytes < 1:
            raise SettingsError("A row must not be empty.", value=list(shape))
        recipe = json.dumps(
            {
                "weights": weights,
                "preprocessing": preprocessing,
                "shape": self.shape,
                "dtype": self.dtype.str,
            },
            sort_keys=True,
        )
        self.folder = Path(folder) / hashlib.sha256(recipe.encode()).hexdigest()[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "recipe.json").write_text(recipe, encoding="utf-8")
            for name in ("rows.bin", "index.bin"):
                (self.folder / name).touch()
        except OSError as error:
            raise SettingsError(
                f"The cache cannot be kept here: {error.strerror}.", value=str(folder)
            ) from error
        self._rows: dict[bytes, int] = {}
        self._checksums = np.empty(0, "<u4")
        self._verified = np.empty(0, bool)

    def __len__(self) -> int:
        """Keys with features."""
        self._refresh()
        return len(self._rows)

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions of keys without features, each key once; checks the others' checksums."""
        self._refresh()
        found: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            name = _name(key)
            if name not in found and not self._intact(name):
                found[name] = position
        return list(found.values())

    def add(self, keys: Sequence[str], rows_N: np.ndarray) -> None:
        """Stores features; keys that have them already are left as they are.

        Args:
            keys: of the samples: a digest of the content, and of whatever else makes them different.
            rows_N: [N, ...], of the cache's type.

        Raises:
            DataError: shape or type are others.
        """
        rows_N = np.ascontiguousarray(rows_N)
        if rows_N.shape != (len(keys), *self.shape) or rows_N.dtype != self.dtype:
            raise DataError(
                f"Features must be {self.dtype} {[len(keys), *self.shape]}.",
                value=f"{rows_N.dtype} {list(rows_N.shape)}",
            )
        with self._locked():
            self._refresh()
            new = {_name(key): row for key, row in zip(keys, rows_N, strict=True)}
            new = {name: row for name, row in new.items() if not self._intact(name)}
            if not new:
                return
            entries = np.empty(len(new), _ENTRY)
            with (self.folder / "rows.bin").open("r+b") as file:
                file.seek(len(self._checksums) * self._row_bytes)
                for number, (name, row) in enumerate(new.items()):
                    data = row.tobytes()
                    entries[number] = (name, zlib.crc32(data))
                    file.write(data)
            with (self.folder / "index.bin").open("ab") as file:
                file.write(entries.tobytes())
        self._refresh()

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """Features [N, ...], read-only: mapped from the file where the rows lie in this order, else a copy.

        Raises:
            DataError: some are missing.
        """
        if missing := self.missing(keys):
            raise DataError(f"{len(missing)} of {len(keys)} features are missing.", value=keys[missing[0]])
        if not keys:
            return np.empty((0, *self.shape), self.dtype)
        numbers_N = np.array([self._rows[_name(key)] for key in keys])
        mapped = self._mapped()
        if (np.diff(numbers_N) == 1).all():
            return mapped[numbers_N[0] : numbers_N[-1] + 1]
        gathered_N = np.asarray(mapped[numbers_N])
        gathered_N.flags.writeable = False
        return gathered_N

    def get_or_compute(
        self,
        keys: Sequence[str],
        compute: Callable[[Sequence[int]], np.ndarray],
        *,
        batch_size: int = 64,
        report: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Features of all samples, of which those that are missing are computed and stored.

        Args:
            keys: of the samples.
            compute: from positions in `keys` to their rows [n, ...], of the cache's type.
            batch_size: how many to compute at once. What is computed survives an interruption after it.
            report: called with (done, total) now and then.

        Returns:
            As `get`.
        """
        missing = self.missing(keys)
        done = len(keys) - len(missing)
        for start in range(0, len(missing), batch_size):
            if report is not None:
                report(done + start, len(keys))
            positions = missing[start : start + batch_size]
            self.add([keys[position] for position in positions], compute(positions))
        if report is not None:
            report(len(keys), len(keys))
        return self.get(keys)

    def _refresh(self) -> None:
        """Takes in what any process has appended."""
        index, known = self.folder / "index.bin", len(self._checksums)
        size = index.stat().st_size // _ENTRY.itemsize
        # An index without its rows is what a power cut may leave.
        size = min(size, (self.folder / "rows.bin").stat().st_size // self._row_bytes)
        if size < known:
            self._rows.clear()
            known = 0
            self._checksums, self._verified = np.empty(0, "<u4"), np.empty(0, bool)
        if size == known:
            return
        entries = np.fromfile(index, _ENTRY, size - known, offset=known * _ENTRY.itemsize)
        for number, name in enumerate(entries["key"], start=known):
            self._rows[name.tobytes()] = number
        self._checksums = np.concatenate([self._checksums, entries["crc"]])
        self._verified = np.concatenate([self._verified, np.zeros(len(entries), bool)])

    def _intact(self, name: bytes) -> bool:
        """Whether there is a row for a key and its checksum is right; checked once."""
        number = self._rows.get(name)
        if number is None:
            return False
        if not self._verified[number]:
            if zlib.crc32(self._mapped()[number].tobytes()) != self._checksums[number]:
                return False
            self._verified[number] = True
        return True

    def _mapped(self) -> np.ndarray:
        return np.memmap(
            self.folder / "rows.bin", self.dtype, mode="r", shape=(len(self._checksums), *self.shape)
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other process or thread appends; what one that was killed left half done is cut off."""
        with (self.folder / "lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            index, rows = self.folder / "index.bin", self.folder / "rows.bin"
            number = min(index.stat().st_size // _ENTRY.itemsize, rows.stat().st_size // self._row_bytes)
            os.truncate(index, number * _ENTRY.itemsize)
            os.truncate(rows, number * self._row_bytes)
            yield


def _name(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
