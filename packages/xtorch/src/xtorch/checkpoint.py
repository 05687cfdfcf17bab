"""Checkpoints: the whole state of training as safetensors and JSON, written so that no crash can harm it.

A folder holds one sub-folder per checkpoint::

    step-0000000120/
      tensors.safetensors     all tensors and arrays
      state.json              everything else, and the SHA-256 of the tensors' file

Each is written under another name, flushed to the disk and renamed: a checkpoint that is there is complete.
Nothing is pickled, so a checkpoint from a stranger can at worst be refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtorch.callbacks.base import Callback, TrainState
from xtorch.distributed import full
from xtorch.errors import CheckpointError, SettingsError

_FORMAT, _VERSION = "xtorch-checkpoint", 1
_NAME = re.compile(r"step-(\d{10,})")
_UNFINISHED = ".unfinished"
_log = logging.getLogger(__name__)


def write_checkpoint(folder: Path, step: int, snapshot: Mapping[str, Any]) -> Path:
    """Write one checkpoint atomically.

    Args:
        folder: where checkpoints stand; made if missing.
        step: its number.
        snapshot: nested dicts, lists and tuples of tensors, arrays and JSON's values.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: a value cannot be saved, or the disk refuses.
    """
    tensors: dict[str, Tensor] = {}
    state = _encode(snapshot, tensors, "")
    final = folder / f"step-{step:010d}"
    unfinished = folder / (final.name + _UNFINISHED)
    try:
        _remove(unfinished)
        unfinished.mkdir(parents=True)
        tensor_file = unfinished / "tensors.safetensors"
        save_file(tensors, tensor_file)
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "tensors_sha256": _digest(tensor_file),
            "state": state,
        }
        (unfinished / "state.json").write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
        for path in (tensor_file, unfinished / "state.json", unfinished):
            _flush(path)
        _remove(final)
        unfinished.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint could not be written: {error}",
            value=str(final),
            hint="is the disk full, or the folder read-only?",
        ) from error
    return final


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint's folder: the snapshot that was written, tensors on the CPU.

    Raises:
        CheckpointError: it is torn, damaged or not a checkpoint.
    """
    try:
        document = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise CheckpointError("state.json is not that of an xTorch checkpoint.", value=str(path))
        if document["version"] != _VERSION:
            raise CheckpointError(
                f"The checkpoint has version {document['version']}, this xTorch reads {_VERSION}.",
                value=str(path),
                hint="resume with the xTorch that wrote it",
            )
        tensor_file = path / "tensors.safetensors"
        if _digest(tensor_file) != document["tensors_sha256"]:
            raise CheckpointError("The tensors are not those that were written.", value=str(path))
        snapshot = _decode(document["state"], load_file(tensor_file))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint cannot be read: {error}", value=str(path)) from error
    assert isinstance(snapshot, dict)
    return snapshot


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; whether they are readable is another matter."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()), key=_step
    )


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a folder and its snapshot; None where there is none at all.

    A torn or damaged one is passed over, with a warning in the log.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    last_error: CheckpointError | None = None
    for path in reversed(checkpoints(folder)):
        try:
            return path, read_checkpoint(path)
        except CheckpointError as error:
            _log.warning("%s is passed over: %s", path.name, error)
            last_error = error
    if last_error is not None:
        raise CheckpointError(
            f"None of the checkpoints can be read; of the oldest: {last_error}",
            value=str(folder),
            hint="remove the folder to train from the start",
        ) from last_error
    return None


class Checkpointing(Callback):
    """Saves the whole state of training now and then; `Trainer.fit(resume=folder)` goes on from it.

    A training that was killed and resumed ends with the same weights and metrics, to the bit, as one that was
    not, on the same machine with the same number of threads.

    Args:
        folder: where checkpoints stand.
        every_epochs: epochs between checkpoints; None: not by epochs. The last epoch always leaves one.
        every_s: seconds between checkpoints, also within an epoch; None: not by time.
        keep: how many of the newest stay.

    Raises:
        SettingsError: `keep` is less than 1, or (when training starts) the folder holds checkpoints of a
            training that is not resumed.
        CheckpointError: a checkpoint cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_epochs: int | None = 1,
        every_s: float | None = None,
        keep: int = 2,
    ) -> None:
        if keep < 1:
            raise SettingsError("keep must be at least 1.", value=keep)
        if every_epochs is not None and every_epochs < 1:
            raise SettingsError("every_epochs must be at least 1, or None.", value=every_epochs)
        self.folder, self.every_epochs, self.every_s, self.keep = Path(folder), every_epochs, every_s, keep
        self._last_s = 0.0

    def on_train_begin(self, state: TrainState) -> None:
        self._last_s = time.monotonic()
        there = checkpoints(self.folder)
        resumed = state.resumed_from is not None and state.resumed_from.resolve() == self.folder.resolve()
        if there and not resumed:
            raise SettingsError(
                f"{self.folder.name} holds checkpoints of an earlier training.",
                value=str(self.folder),
                hint="pass it as fit(resume=...) to go on, or use another folder",
            )

    def on_batch_end(self, state: TrainState) -> None:
        if self.every_s is not None and time.monotonic() - self._last_s >= self.every_s:
            state.save_due = True

    def on_epoch_end(self, state: TrainState) -> None:
        ended = state.epoch >= state.max_epochs or state.stop_reason is not None
        if ended or (self.every_epochs is not None and state.epoch % self.every_epochs == 0):
            state.save_due = True

    def on_checkpoint(self, state: TrainState, snapshot: Mapping[str, Any]) -> None:
        self._last_s = time.monotonic()
        if not snapshot:
            return
        write_checkpoint(self.folder, state.step, snapshot)
        there = checkpoints(self.folder)
        # Beyond this step there can only be damaged ones: training would have resumed from them otherwise.
        good = [path for path in there if _step(path) <= state.step]
        for path in there:
            if path not in good[-self.keep :]:
                _remove(path)
        for path in self.folder.glob(f"*{_UNFINISHED}"):
            _remove(path)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have the disk hold a file's or folder's content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _encode(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """JSON's form of a snapshot; tensors and arrays go to `tensors` under their path."""
    if isinstance(value, Tensor | np.ndarray):
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        # The order of the axes in memory decides which instructions run, and so the last bit.
        channels_last = (
            tensor.ndim == 4
            and tensor.is_contiguous(memory_format=torch.channels_last)
            and not tensor.is_contiguous()
        )
        tensors[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
        kind = "array" if isinstance(value, np.ndarray) else "channels_last" if channels_last else "tensor"
        return {"$": kind, "name": name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key != "$" for key in value):
            return {key: _encode(item, tensors, f"{name}/{key}") for key, item in value.items()}
        items = [
            [_encode(key, tensors, ""), _encode(item, tensors, f"{name}/{key}")]
            for key, item in value.items()
        ]
        return {"$": "items", "items": items}
    if isinstance(value, list | tuple):
        entries = [_encode(item, tensors, f"{name}/{index}") for index, item in enumerate(value)]
        return entries if isinstance(value, list) else {"$": "tuple", "items": entries}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$": "float", "text": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        f"A checkpoint cannot hold a {type(value).__name__} ({name}).", value=type(value).__name__
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get("$"):
        case None:
            return {key: _decode(item, tensors) for key, item in value.items()}
        case "tensor":
            return tensors[value["name"]]
        case "channels_last":
            return tensors[value["name"]].contiguous(memory_format=torch.channels_last)
        case "array":
            return tensors[value["name"]].numpy()
        case "tuple":
            return tuple(_decode(item, tensors) for item in value["items"])
        case "items":
            return {_decode(key, tensors): _decode(item, tensors) for key, item in value["items"]}
        case "float":
            return float(value["text"])
        case kind:
            raise ValueError(f"unknown kind {kind!r}")


def whole(value: Any) -> Any:
    """A snapshot with sharded tensors put together. All processes have to call it on the same structure."""
    if isinstance(value, Tensor):
        return full(value)
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = [whole(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value
