"""`xinfer.postproc.nms`, compiled. Imported only where numba is installed.

Legend: N boxes; M candidates, best first; K kept boxes; 4 = x1, y1, x2, y2.
"""

from __future__ import annotations

import numpy as np

from xinfer._extras import require

numba = require("numba", "fast")

_DIGIT_BITS = 11
"""Three digits make a 32-bit key; their 2,048 counters fit the first-level cache."""


def _by_falling_score(scores_N: np.ndarray, candidates_M: np.ndarray) -> np.ndarray:
    """The candidates by falling score, equal ones in their order: a radix sort, which is stable."""
    num = len(candidates_M)
    keys, indices = np.empty(num, np.uint32), candidates_M
    bits_N = scores_N.view(np.uint32)
    for m in range(num):
        bits = bits_N[indices[m]]
        # IEEE 754 floats order like their bits once negative ones are flipped; -0.0 equals 0.0.
        if bits == np.uint32(0x80000000):
            bits = np.uint32(0)
        keys[m] = bits if bits >> np.uint32(31) else bits ^ np.uint32(0x7FFFFFFF)
    other_keys, other_indices = np.empty(num, np.uint32), np.empty(num, np.int64)
    size = 1 << _DIGIT_BITS
    for digit in range(3):
        shift = np.uint32(digit * _DIGIT_BITS)
        starts = np.zeros(size + 1, np.int64)
        for m in range(num):
            starts[((keys[m] >> shift) & np.uint32(size - 1)) + 1] += 1
        for value in range(size):
            starts[value + 1] += starts[value]
        for m in range(num):
            value = (keys[m] >> shift) & np.uint32(size - 1)
            place = starts[value]
            starts[value] += 1
            other_keys[place] = keys[m]
            other_indices[place] = indices[m]
        keys, other_keys = other_keys, keys
        indices, other_indices = other_indices, indices
    return indices


def _suppress(
    boxes_N4: np.ndarray,
    scores_N: np.ndarray,
    labels_N: np.ndarray,
    iou_threshold: np.float32,
    score_threshold: np.float32,
    max_detections: int,
) -> np.ndarray:
    # Without fastmath LLVM neither reorders nor fuses: each operation rounds as NumPy's does.
    zero = np.float32(0)
    count = 0
    for i in range(len(scores_N)):
        count += scores_N[i] >= score_threshold
    candidates_M = np.empty(count, np.int64)
    count = 0
    for i in range(len(scores_N)):
        if scores_N[i] >= score_threshold and np.isfinite(scores_N[i]):
            x1, y1, x2, y2 = boxes_N4[i, 0], boxes_N4[i, 1], boxes_N4[i, 2], boxes_N4[i, 3]
            if np.isfinite(x1) and np.isfinite(y1) and np.isfinite(x2) and np.isfinite(y2):
                candidates_M[count] = i
                count += 1
    candidates_M = _sort(scores_N, candidates_M[:count])
    limit = min(count, max_detections)
    kept_K = np.empty(limit, np.int64)
    # The kept boxes stand column by column, so that the inner loop reads memory in order.
    x1_K = np.empty(limit, np.float32)
    y1_K = np.empty(limit, np.float32)
    x2_K = np.empty(limit, np.float32)
    y2_K = np.empty(limit, np.float32)
    area_K = np.empty(limit, np.float32)
    label_K = np.empty(limit, np.int64)
    one_class = len(labels_N) == 0
    count = 0
    for i in candidates_M:
        x1, y1, x2, y2 = boxes_N4[i, 0], boxes_N4[i, 1], boxes_N4[i, 2], boxes_N4[i, 3]
        area = max(x2 - x1, zero) * max(y2 - y1, zero)
        label = 0 if one_class else labels_N[i]
        stays = True
        for k in range(count):
            if label_K[k] != label:
                continue
            width = min(x2_K[k], x2) - max(x1_K[k], x1)
            height = min(y2_K[k], y2) - max(y1_K[k], y1)
            if width <= zero or height <= zero:
                continue
            intersection = width * height
            if intersection > iou_threshold * (area_K[k] + area - intersection):
                stays = False
                break
        if stays:
            kept_K[count] = i
            x1_K[count], y1_K[count], x2_K[count], y2_K[count] = x1, y1, x2, y2
            area_K[count] = area
            label_K[count] = label
            count += 1
            if count == limit:
                break
    return kept_K[:count].copy()


_SORT = "int64[::1](float32[::1], int64[::1])"
_SUPPRESS = "int64[::1](float32[:,::1], float32[::1], int64[::1], float32, float32, int64)"

try:
    _sort = numba.njit(_SORT, cache=True, nogil=True)(_by_falling_score)
    suppress_numba = numba.njit(_SUPPRESS, cache=True, nogil=True)(_suppress)
except RuntimeError:
    # No folder that the cache could stand in, as with a read-only installation and home.
    _sort = numba.njit(_SORT, nogil=True)(_by_falling_score)
    suppress_numba = numba.njit(_SUPPRESS, nogil=True)(_suppress)
