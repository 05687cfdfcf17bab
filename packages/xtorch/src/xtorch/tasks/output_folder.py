"""A run's outputs appear all at once, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_PREFIX = ".partial-"


@contextmanager
def all_or_nothing(output_dir: Path) -> Iterator[Path]:
    """A folder to write outputs into; they move to `output_dir` when the block ends well, else they go.

    A process that is killed leaves its folder behind; the next run with the same `output_dir` removes it.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # Without this lock, a folder could be taken for abandoned between its making and its own lock.
        with _locked(output_dir, wait=True):
            for left in output_dir.glob(f"{_PREFIX}*"):
                with _locked(left, wait=False) as abandoned:
                    if abandoned:
                        shutil.rmtree(left, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=output_dir))
            held.callback(shutil.rmtree, partial, ignore_errors=True)
            held.enter_context(_locked(partial, wait=False))
        yield partial
        for item in sorted(partial.iterdir()):
            target = output_dir / item.name
            if target.is_dir():
                shutil.rmtree(target)
            item.replace(target)


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a folder's lock, which the system takes back when the process ends, however it ends.

    Answers whether it is held: not where another one has it, nor on file systems without locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # no folder, or gone
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
