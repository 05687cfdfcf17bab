"""The journal of a search: one JSON object a line, on disk before the search goes on.

::

    {"kind": "search", "version": 1, "identity": "sha256:…"}    what is searched; a file belongs to one search
    {"kind": "asked", "number": 3, "params": {…}, …}            a trial begins
    {"kind": "told", "number": 3, "state": "complete", …}       it has ended

A process that is killed leaves at most one unfinished line, which is dropped, and trials that were asked for
and never told of, which are run again with the same parameters.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from xtorch.errors import TuningStorageError

_VERSION = 1


class TuneLog:
    """A journal that this process owns until `close`.

    Args:
        path: The file; made where there is none.
        identity: Of the search, as a digest.

    Raises:
        TuningStorageError: The file is another search's, is damaged, or another process writes it.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("a+b")
        try:
            self._lock()
            self.entries = self._recover(identity)
        except BaseException:
            self._file.close()
            raise

    def append(self, **entry: Any) -> None:
        """Writes a line through to the disk."""
        self._file.write(json.dumps(entry, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TuningStorageError(
                "Another process is running this search.",
                value=self._path.name,
                hint="wait until it has ended",
            ) from None

    def _recover(self, identity: str) -> list[dict[str, Any]]:
        """All whole entries but the first; begins a new file where there is none."""
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
        try:
            entries: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
            if entries and (entries[0]["kind"], entries[0]["version"]) != ("search", _VERSION):
                raise ValueError("it does not begin as a journal does")
            found = entries[0]["identity"] if entries else identity
        except (ValueError, KeyError, TypeError) as error:
            raise TuningStorageError(
                f"The search's journal is damaged: {error}",
                value=self._path.name,
                hint="delete it: the search then begins anew",
            ) from error
        if found != identity:
            raise TuningStorageError(
                "The journal is that of another search: space, portfolio, seed, direction or data differ.",
                value=self._path.name,
                hint="give each search a file of its own",
            )
        if not entries:
            self.append(kind="search", version=_VERSION, identity=identity)
        return entries[1:]
