"""Groups of images that show the same thing, exactly or nearly.

Shapes: N images, h, w rows and columns of thumbnails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

#: Near duplicates agree in all but this many of 64 perceptual-hash bits ...
_MAX_HASH_BITS = 6
#: ... and correlate at least this much as 32x32 grey pictures. A hash alone confuses plain surfaces.
_MIN_CORRELATION = 0.985
_CHUNK = 1024


def exact_groups(digests: Sequence[str]) -> list[list[int]]:
    """Indices of files with the same bytes, groups of two and more, in order of appearance."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        found[digest].append(index)
    return [group for group in found.values() if len(group) > 1]


def near_pairs(hashes: Sequence[int], thumbnails_Nhw: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of pictures that look the same.

    Args:
        hashes: N 64-bit perceptual hashes.
        thumbnails_Nhw: float32 [N,h,w], grey levels 0..255.
    """
    num = len(hashes)
    if num < 2:
        return []
    codes = np.asarray(hashes, dtype=np.uint64)
    flat = thumbnails_Nhw.reshape(num, -1).astype(np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1)
    flat = flat / np.maximum(norms, 1e-6)[:, None]
    pairs: list[tuple[int, int]] = []
    for start in range(0, num, _CHUNK):
        rows = codes[start : start + _CHUNK]
        differing = np.bitwise_count(rows[:, None] ^ codes[None, :])
        for row, column in np.argwhere(differing <= _MAX_HASH_BITS):
            i, j = start + int(row), int(column)
            if i < j and float(flat[i] @ flat[j]) >= _MIN_CORRELATION:
                pairs.append((i, j))
    return pairs


def connected(num: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Group number of each of `num` items, where `pairs` belong together (union-find).

    A group's number is its smallest member.
    """
    parent = list(range(num))

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in pairs:
        low, high = sorted((find(first), find(second)))
        parent[high] = low
    return [find(item) for item in range(num)]
