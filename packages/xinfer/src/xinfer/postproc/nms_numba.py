"""The greedy pass of `xinfer.postproc.nms`, compiled. Imported only where numba is installed.

Legend: M candidates, best first; K kept boxes; 4 = x1, y1, x2, y2.
"""

from __future__ import annotations

import numpy as np

from xinfer._extras import require

numba = require("numba", "fast")

_SIGNATURE = "int64[::1](float32[:,::1], int64[::1], float32, int64)"


def _greedy(
    boxes_M4: np.ndarray, labels_M: np.ndarray, iou_threshold: np.float32, max_detections: int
) -> np.ndarray:
    # Without fastmath LLVM neither reorders nor fuses: each operation rounds as NumPy's does.
    zero = np.float32(0)
    num_candidates = len(boxes_M4)
    limit = min(num_candidates, max_detections)
    kept_K = np.empty(limit, np.int64)
    # The kept boxes stand column by column, so that the inner loop reads memory in order.
    x1_K = np.empty(limit, np.float32)
    y1_K = np.empty(limit, np.float32)
    x2_K = np.empty(limit, np.float32)
    y2_K = np.empty(limit, np.float32)
    area_K = np.empty(limit, np.float32)
    label_K = np.empty(limit, np.int64)
    count = 0
    for i in range(num_candidates):
        x1, y1, x2, y2 = boxes_M4[i, 0], boxes_M4[i, 1], boxes_M4[i, 2], boxes_M4[i, 3]
        area = max(x2 - x1, zero) * max(y2 - y1, zero)
        label = labels_M[i]
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


try:
    greedy_numba = numba.njit(_SIGNATURE, cache=True, nogil=True)(_greedy)
except RuntimeError:
    # No folder that the cache could stand in, as with a read-only installation and home.
    greedy_numba = numba.njit(_SIGNATURE, nogil=True)(_greedy)
