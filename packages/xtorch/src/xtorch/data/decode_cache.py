"""Decoded images kept in memory or on disk, shared by threads and processes.

    <folder>/<recipe>/<ab>/<digest>     8 bytes: H and W, little-endian uint32; then the pixels
    <folder>/used                       bytes stored, decimal; changed under flock
    <folder>/owner                      memory only: flocked by the process that owns the folder

An entry is written to a temporary name first and appears whole or not at all, whatever is killed. In memory
means a folder of its own on the shared-memory file system, removed at `close`, or by the next cache after a
kill.

When the budget is spent, nothing more is stored and nothing is removed: training reads every image once an
epoch, and of entries that are replaced in turn none would be there when its image comes again.

Source: Mohan et al., "Analyzing and Mitigating Data Stalls in DNN Training" (VLDB 2021), section 4.1 (MinIO).

Legend: H height, W width.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xtorch.errors import SettingsError

_HEADER = struct.Struct("<II")
_PREFIX = "xtorch-decoded-"


class DecodeCache:
    """Decoded images by content and recipe.

    Args:
        folder: where to keep them; "memory": nowhere longer than this object lives.
        budget_bytes: at most so much. A folder that holds more at the start loses its oldest entries.

    Raises:
        SettingsError: the budget is not positive, or the folder cannot be used.
    """

    def __init__(
        self, folder: str | Path | Literal["memory"] = "memory", *, budget_bytes: int = 2 * 1024**3
    ) -> None:
        if budget_bytes < 1:
            raise SettingsError("budget_bytes must be positive.", value=budget_bytes)
        self.budget_bytes = budget_bytes
        self._release: weakref.finalize[Any, Any] | None = None
        try:
            if folder == "memory":
                self.folder = _memory_folder()
                self._release = weakref.finalize(self, _remove, self.folder, _owned(self.folder), os.getpid())
            else:
                self.folder = Path(folder)
                self.folder.mkdir(parents=True, exist_ok=True)
            with self._used() as used:
                used.value = self._trim()
        except OSError as error:
            raise SettingsError(
                f"The cache cannot be kept here: {error.strerror}.", value=str(folder)
            ) from error

    @property
    def used_bytes(self) -> int:
        """Bytes stored, by all processes."""
        with self._used() as used:
            return used.value

    def get(self, recipe: Mapping[str, Any], digest: str) -> np.ndarray | None:
        """A decoded image, uint8 [H,W,3], read-only; None if it is not there.

        Args:
            recipe: JSON values: all that the pixels depend on beside the file's content.
            digest: of the file's content.
        """
        try:
            data = self._path(recipe, digest).read_bytes()
        except OSError:
            return None
        if len(data) < _HEADER.size:
            return None
        height, width = _HEADER.unpack_from(data)
        if len(data) != _HEADER.size + height * width * 3:
            return None  # a power cut may leave a name without its content
        return np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(height, width, 3)

    def put(self, recipe: Mapping[str, Any], digest: str, pixels_HW3: np.ndarray) -> bool:
        """Stores a decoded image, uint8 [H,W,3]; whether there was room."""
        path = self._path(recipe, digest)
        size = _HEADER.size + pixels_HW3.nbytes
        with self._used() as used:
            if path.exists():
                return True
            if used.value + size > self.budget_bytes:
                return False
            used.value += size
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                file.write(_HEADER.pack(*pixels_HW3.shape[:2]))
                file.write(np.ascontiguousarray(pixels_HW3).data)
            Path(file.name).replace(path)
        except OSError as error:
            # Room taken stays taken: the budget is a bound. Decoding goes on without the cache.
            with contextlib.suppress(OSError, UnboundLocalError):
                Path(file.name).unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EROFS):
                raise
            return False
        return True

    def close(self) -> None:
        """Removes what is in memory; a folder on disk stays."""
        if self._release is not None:
            self._release()

    def __getstate__(self) -> dict[str, Any]:
        # A process that gets the cache uses its folder, and does not own it.
        return self.__dict__ | {"_release": None}

    def _path(self, recipe: Mapping[str, Any], digest: str) -> Path:
        kind = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
        name = digest.removeprefix("sha256:")
        return self.folder / kind / name[:2] / name

    @contextlib.contextmanager
    def _used(self) -> Iterator[_Counter]:
        """The shared count of bytes; no one else changes it meanwhile."""
        # Opened anew each time: a lock belongs to an open file, and so excludes threads too.
        with open(self.folder / "used", "a+b") as file:  # noqa: PTH123
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            counter = _Counter(int(file.read() or b"0"))
            before = counter.value
            yield counter
            if counter.value != before:
                file.truncate(0)
                file.write(b"%d" % counter.value)

    def _trim(self) -> int:
        """Bytes in the folder, after the oldest entries beyond the budget are gone."""
        entries = []
        for path in self.folder.glob("*/*/*"):
            status = path.stat()
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.budget_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


class _Counter:
    def __init__(self, value: int) -> None:
        self.value = value


def _memory_folder() -> Path:
    shared = Path("/dev/shm")  # noqa: S108  (not a temporary file of a guessable name: mkdtemp below)
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    for left in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (left / "owner").open("rb") as file:
            # Free to lock: its owner was killed.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))


def _owned(folder: Path) -> int:
    """Marks a folder as in use, for as long as the descriptor that is returned is open in any process."""
    descriptor = os.open(folder / "owner", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove(folder: Path, descriptor: int, owner: int) -> None:
    # Forked workers run the finalisers of what they inherited: only the owner removes.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.close(descriptor)
