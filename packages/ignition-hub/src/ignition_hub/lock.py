"""One Hub per home folder: `run/hub.lock` is locked while it runs, `run/hub.json` says where it is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignition_hub.errors import AlreadyRunningError


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Holds the home's lock.

    Raises:
        AlreadyRunningError: Another Hub has it; the error names its process id.
    """
    run = home / "run"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(run / "hub.lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = file.read().strip() or "unknown"
            raise AlreadyRunningError(
                f"Another Hub (process {pid}) uses {home}.", value=pid, hint="Stop it with `ignition down`."
            ) from error
        info_path(home).unlink(missing_ok=True)  # left by a Hub that was killed
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            info_path(home).unlink(missing_ok=True)
            (run / "hub.lock").unlink(missing_ok=True)


def info_path(home: Path) -> Path:
    return home / "run" / "hub.json"


def write_info(home: Path, info: dict[str, Any]) -> None:
    """Says where the Hub is, atomically; only its owner may read the setup link."""
    temporary = info_path(home).with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(info, indent=1))
    temporary.replace(info_path(home))


def running_pid(home: Path) -> int | None:
    """The process id of the Hub that holds the lock, if one does."""
    try:
        with (home / "run" / "hub.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None
