"""What a run keeps of its tuning, so that one that was killed goes on when it is run again, to the same end.

::

    <cache_dir>/text/<texts, settings and seed>/
      contrastive.json        how much of its plan there was time for
      contrastive-0.npy       logits of a fold that is done
      contrastive-1/          checkpoints of a fit (`xtorch.checkpoint`)

Decisions that depend on the clock are kept as well: else the second run would make others.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np


class Kept:
    """
    Args:
        folder: None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def share(self, rung: str, decide: Callable[[], float]) -> float:
        """Which share of its steps a rung makes, 0..1: as decided before, else as decided now."""
        if self._folder is None:
            return decide()
        path = self._folder / f"{rung}.json"
        try:
            return float(json.loads(path.read_text(encoding="utf-8"))["share"])
        except (OSError, ValueError, KeyError, TypeError):
            share = decide()
            self._write(path, lambda partial: partial.write_text(json.dumps({"share": share})))
            return share

    def checkpoints(self, fit: str) -> Path | None:
        """Where a fit saves its state."""
        return None if self._folder is None else self._folder / fit

    def logits(self, fit: str) -> np.ndarray | None:
        """Those of a fold that is done; None: there are none."""
        if self._folder is None:
            return None
        try:
            values: np.ndarray = np.load(self._folder / f"{fit}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values

    def keep_logits(self, fit: str, logits_NC: np.ndarray) -> None:
        """A fold is done: its model is not needed any more."""
        if self._folder is None:
            return
        self._write(
            self._folder / f"{fit}.npy", lambda partial: np.save(partial, logits_NC, allow_pickle=False)
        )
        self.drop_checkpoints(fit)

    def drop_checkpoints(self, fit: str) -> None:
        """Those of a fit that is done, or that cannot go on from them."""
        if self._folder is not None:
            shutil.rmtree(self._folder / fit, ignore_errors=True)

    def clear(self) -> None:
        """The run is done."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        """A file that is there is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
        write(partial)
        partial.replace(path)
