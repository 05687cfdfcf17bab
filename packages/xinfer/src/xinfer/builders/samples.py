"""Model inputs and outputs as files, between the builder and its workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write_samples(folder: Path, samples: list[dict[str, np.ndarray]]) -> None:
    """Writes feeds where `read_samples` finds them."""
    folder.mkdir(parents=True)
    for index, feeds in enumerate(samples):
        np.savez(folder / f"{index:06}.npz", **feeds)  # type: ignore[arg-type]


def read_outputs(path: Path) -> list[dict[str, np.ndarray]]:
    """Reads what `_probe` wrote, in the samples' order."""
    outputs: list[dict[str, np.ndarray]] = []
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition(".")
            while len(outputs) <= int(index):
                outputs.append({})
            outputs[int(index)][name] = arrays[key]
    return outputs


def read_samples(folder: Path, *, limit: int | None = None) -> list[dict[str, np.ndarray]]:
    """Reads what `write_samples` wrote, in order; the first `limit`."""
    samples = []
    for path in sorted(folder.glob("*.npz"))[:limit]:
        with np.load(path, allow_pickle=False) as file:
            samples.append({name: file[name] for name in file.files})
    return samples


def samples_digest(samples: Iterable[dict[str, np.ndarray]]) -> str:
    """Content address of some samples, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            array = np.ascontiguousarray(sample[name])
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return "sha256:" + digest.hexdigest()
