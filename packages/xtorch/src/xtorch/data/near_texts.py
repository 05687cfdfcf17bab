"""Texts that say nearly the same.

Shapes: N texts, H hash functions.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

MIN_OVERLAP = 0.8
"""Near duplicates share at least this much of their shingles (Jaccard)."""
_WORDS_OF_SHINGLE = 3
_MAX_SHINGLES = 400
_BANDS, _ROWS = 16, 4
_PRIME = np.uint64((1 << 31) - 1)
_WORD = re.compile(r"\w+")


def plain(text: str) -> str:
    """A text without case, marks and punctuation, for comparing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded))


def shingles(text: str) -> np.ndarray:
    """Hashes of a plain text's runs of three words (without spaces: characters), uint64, sorted, distinct."""
    units = text.split()
    if len(units) < _WORDS_OF_SHINGLE and len(text) > 12 and max(text) > "\u2e80":
        units = list(text.replace(" ", ""))
    width = min(_WORDS_OF_SHINGLE, max(1, len(units)))
    runs = {" ".join(units[i : i + width]) for i in range(len(units) - width + 1)}
    hashes = np.fromiter((zlib.crc32(run.encode()) for run in runs), dtype=np.uint64, count=len(runs))
    return np.sort(hashes)[:_MAX_SHINGLES]


def near_text_pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of texts that are equal but for case and punctuation, or share most of their words in order.

    MinHash finds candidates, which are then compared exactly. Of many equal texts each is paired with the
    first only: enough to group them.

    Source: Broder, "On the resemblance and containment of documents" (SEQUENCES 1997), section 3; banding:
    Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets" (2nd ed.), section 3.4.
    """
    plains = [plain(text) for text in texts]
    first: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    for index, text in enumerate(plains):
        if text:
            found = first.setdefault(text, index)
            if found != index:
                pairs.append((found, index))
    distinct = sorted(first.values())
    sets = {index: shingles(plains[index]) for index in distinct}
    signatures = _signatures([sets[index] for index in distinct])
    seen: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        columns = signatures[:, band * _ROWS : (band + 1) * _ROWS]
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, row in zip(distinct, columns, strict=True):
            buckets[row.tobytes()].append(index)
        for members in buckets.values():
            anchors = [members[0]]
            for index in members[1:]:
                for anchor in anchors[-8:]:
                    pair = (anchor, index)
                    if pair in seen:
                        continue
                    seen.add(pair)
                    if _overlap(sets[anchor], sets[index]) >= MIN_OVERLAP:
                        pairs.append(pair)
                        break
                else:
                    anchors.append(index)
    return pairs


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    if min(len(a), len(b)) < MIN_OVERLAP * max(len(a), len(b)):
        return 0.0
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def _signatures(sets: Sequence[np.ndarray]) -> np.ndarray:
    """MinHash signatures, uint64 [N,H]."""
    rng = np.random.default_rng(0)
    num = _BANDS * _ROWS
    factors = rng.integers(1, int(_PRIME), num, dtype=np.uint64)
    offsets = rng.integers(0, int(_PRIME), num, dtype=np.uint64)
    signatures = np.empty((len(sets), num), dtype=np.uint64)
    for row, hashes in enumerate(sets):
        if len(hashes):
            values = (hashes[:, None] % _PRIME * factors + offsets) % _PRIME
            signatures[row] = values.min(axis=0)
        else:
            signatures[row] = np.uint64(row) + _PRIME  # no words: alike to nothing
    return signatures
