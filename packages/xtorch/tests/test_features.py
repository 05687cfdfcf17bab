"""Cached features are those that were computed, for other processes too, whatever was killed or torn."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtorch.data.features import FeatureCache, weights_digest
from xtorch.errors import DataError, SettingsError

SHAPE = (3, 5)


def cache(folder: Path, **changes: Any) -> FeatureCache:
    options: dict[str, Any] = {"weights": "sha256:w", "preprocessing": {"size": 64}, "shape": SHAPE}
    return FeatureCache(folder, **(options | changes))


def row(key: str) -> np.ndarray:
    seed = int.from_bytes(key.encode(), "little")
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def rows(keys: Sequence[str]) -> np.ndarray:
    return np.stack([row(key) for key in keys])


@settings(max_examples=20, deadline=None)
@given(calls=st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=8), min_size=1, max_size=5))
def test_gives_what_was_computed_and_computes_nothing_twice(
    calls: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("features")
    computed: list[str] = []

    for keys in calls:

        def compute(positions: Sequence[int], keys: list[str] = keys) -> np.ndarray:
            computed.extend(keys[position] for position in positions)
            return rows([keys[position] for position in positions])

        found = cache(folder).get_or_compute(keys, compute, batch_size=3)
        assert np.array_equal(found, rows(keys))
        assert not found.flags.writeable
    assert sorted(computed) == sorted({key for keys in calls for key in keys})
    assert len(cache(folder)) == len(computed)


def test_rows_in_order_are_mapped_and_not_copied(tmp_path: Path) -> None:
    features = cache(tmp_path)
    keys = [str(index) for index in range(6)]
    features.add(keys, rows(keys))
    mapped = features.get(keys[1:5])
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, rows(keys[1:5]))
    assert not isinstance(features.get(keys[::-1]), np.memmap)
    assert features.get([]).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    "changes",
    [{"weights": "sha256:v"}, {"preprocessing": {"size": 65}}, {"shape": (5, 3)}, {"dtype": "float16"}],
)
def test_other_recipe_has_other_features(tmp_path: Path, changes: dict[str, Any]) -> None:
    cache(tmp_path).add(["a"], rows(["a"]))
    assert cache(tmp_path).missing(["a", "b", "b"]) == [1]
    assert cache(tmp_path, **changes).missing(["a"]) == [0]


def test_missing_and_unfitting_features_are_refused(tmp_path: Path) -> None:
    features = cache(tmp_path)
    with pytest.raises(DataError, match="1 of 1 features are missing"):
        features.get(["a"])
    with pytest.raises(DataError, match="float32"):
        features.add(["a"], np.zeros((1, *SHAPE)))
    with pytest.raises(DataError, match="float32"):
        features.add(["a"], np.zeros((2, *SHAPE), np.float32))
    with pytest.raises(SettingsError):
        cache(tmp_path, shape=(0, 3))
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be kept"):
        cache(tmp_path / "file")


@pytest.mark.parametrize(
    ("file", "cut"), [("index.bin", 7), ("rows.bin", 11), ("index.bin", 36), ("rows.bin", 60)]
)
def test_torn_tail_is_computed_again_and_the_rest_stays(tmp_path: Path, file: str, cut: int) -> None:
    keys = [str(index) for index in range(5)]
    features = cache(tmp_path)
    features.add(keys, rows(keys))
    path = features.folder / file
    path.write_bytes(path.read_bytes()[:-cut])
    again = cache(tmp_path)
    assert again.missing(keys) == [4]
    assert np.array_equal(again.get(keys[:4]), rows(keys[:4]))
    again.add(keys[3:], rows(keys[3:]))
    assert np.array_equal(cache(tmp_path).get(keys), rows(keys))
    assert np.array_equal(again.get(keys), rows(keys))


def test_row_with_a_wrong_checksum_is_computed_again(tmp_path: Path) -> None:
    keys = ["a", "b", "c"]
    features = cache(tmp_path)
    features.add(keys, rows(keys))
    path = features.folder / "rows.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = cache(tmp_path)
    assert again.missing(keys) == [1]
    assert np.array_equal(again.get_or_compute(keys, lambda p: rows([keys[i] for i in p])), rows(keys))
    assert np.array_equal(cache(tmp_path).get(keys), rows(keys))


def test_threads_can_add_at_once(tmp_path: Path) -> None:
    def fill(start: int) -> None:
        keys = [str(index) for index in range(start, start + 30)]
        each = cache(tmp_path)
        for key in keys:
            each.add([key], rows([key]))

    threads = [threading.Thread(target=fill, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [str(index) for index in range(50)]
    features = cache(tmp_path)
    assert len(features) == 50
    assert np.array_equal(features.get(keys), rows(keys))
    assert (features.folder / "index.bin").stat().st_size == 50 * 36


WRITER = """
import sys
import numpy as np
from xtorch.data.features import FeatureCache
cache = FeatureCache(sys.argv[1], weights="w", preprocessing={}, shape=(50_000,))
number = 0
while True:
    keys = [f"{sys.argv[2]}{number + offset}" for offset in range(3)]
    cache.add(keys, np.stack([np.full(50_000, number + offset, np.float32) for offset in range(3)]))
    number += 3
    print(number, flush=True)
"""


@pytest.mark.faults
def test_killed_writers_leave_whole_rows_only(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    told: dict[str, int] = {}
    for name, writer in zip("ab", writers, strict=True):
        assert writer.stdout is not None
        for _ in range(4):
            told[name] = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = writer.communicate()[0].split()
        told[name] = int(last[-1]) if last else told[name]
    features = FeatureCache(tmp_path, weights="w", preprocessing={}, shape=(50_000,))
    for name, number in told.items():
        found = features.get([f"{name}{index}" for index in range(number)])
        assert np.array_equal(found, np.arange(number)[:, None] * np.ones((1, 50_000)))
    features.add(["after"], np.ones((1, 50_000), np.float32))
    assert features.get(["after"]).sum() == 50_000


def test_digest_of_weights_depends_on_names_shapes_types_and_values() -> None:
    state = {"a": torch.arange(4.0), "b": torch.zeros(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    digest = weights_digest(state)
    assert digest == weights_digest(dict(reversed(state.items())))
    assert digest.startswith("sha256:")
    others = [
        state | {"a": torch.arange(4.0) + 1e-6},
        state | {"a": torch.arange(4.0).reshape(2, 2)},
        state | {"b": torch.zeros(2, dtype=torch.float16)},
        {"c": state["a"], "b": state["b"], "n": state["n"]},
        state | {"n": torch.tensor(4)},
    ]
    assert len({digest, *map(weights_digest, others)}) == 6
