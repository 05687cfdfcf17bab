"""The agent's content-addressed cache: job inputs are downloaded once and linked into every job.

```
<root>/ab/ab12…   a blob, read-only, named by the hex SHA-256 of its content
```
A file's modification time is the time of its last use; `prune` removes the least recently used first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ignition_client.digests import write_verified

READ_ONLY = 0o444


class BlobCache:
    """Verified blobs below `root`, bounded to `max_bytes` by `prune`."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        root.mkdir(parents=True, exist_ok=True)

    def _path(self, digest: str) -> Path:
        hex_digest = digest.removeprefix("sha256:")
        return self._root / hex_digest[:2] / hex_digest

    def has(self, digest: str, size_bytes: int) -> bool:
        """Whether the blob is here, whole. A file of another size (a crash) is removed."""
        path = self._path(digest)
        try:
            if path.stat().st_size == size_bytes:
                os.utime(path)
                return True
            path.unlink()
        except FileNotFoundError:
            pass
        return False

    def add(self, digest: str, chunks: Iterable[bytes]) -> None:
        """Stores `chunks` if they have `digest`.

        Raises:
            DigestMismatchError: They have not; nothing is stored.
            OSError: The disk is full or not writable; nothing is stored.
        """
        write_verified(self._path(digest), chunks, digest, mode=READ_ONLY, durable=False)

    def place(self, digest: str, destination: Path) -> None:
        """Puts a cached blob at `destination`: a hard link, or a read-only copy across file systems."""
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            destination.hardlink_to(self._path(digest))
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(self._path(digest), destination)
            destination.chmod(READ_ONLY)

    def prune(self) -> int:
        """Removes the least recently used blobs until `max_bytes` are kept; returns the bytes removed."""
        return prune_folder(self._root, self._max_bytes)


def prune_folder(root: Path, max_bytes: int) -> int:
    """Removes the files below `root` that were used longest ago until at most `max_bytes` are left.

    Returns:
        The bytes removed.
    """
    files = []
    for path in root.rglob("*"):
        stat = path.lstat()
        if path.is_symlink() or not path.is_dir():
            files.append((stat.st_mtime_ns, stat.st_size, path))
    excess_bytes = sum(size for _, size, _ in files) - max_bytes
    removed_bytes = 0
    for _, size, path in sorted(files):
        if removed_bytes >= excess_bytes:
            break
        path.unlink(missing_ok=True)
        removed_bytes += size
    return removed_bytes
