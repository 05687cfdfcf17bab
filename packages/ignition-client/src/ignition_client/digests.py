"""SHA-256 content addresses and atomic, verified files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ignition_client.errors import DigestMismatchError


def digest_of_bytes(data: bytes) -> str:
    """``sha256:<hex>`` of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(path: Path) -> str:
    """``sha256:<hex>`` of a file's content, read in pieces.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[BinaryIO]:
    """A file that appears under `path` complete or not at all (temporary file, fsync, rename).

    `durable=False` leaves out the fsync: for what can be fetched again and is checked when it is used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_verified(
    path: Path, chunks: Iterable[bytes], digest: str, *, mode: int = 0o644, durable: bool = True
) -> int:
    """Writes `chunks` to `path` if, and only if, they have `digest`.

    Returns:
        The size, bytes.

    Raises:
        DigestMismatchError: Other bytes came; nothing was left behind.
        OSError: The disk is full or not writable; nothing was left behind.
    """
    hasher = hashlib.sha256()
    size_bytes = 0
    with atomic_file(path, mode=mode, durable=durable) as file:
        for chunk in chunks:
            hasher.update(chunk)
            file.write(chunk)
            size_bytes += len(chunk)
        actual = f"sha256:{hasher.hexdigest()}"
        if actual != digest:
            raise DigestMismatchError(f"Expected {digest}, got {actual}.", value=actual)
    return size_bytes
