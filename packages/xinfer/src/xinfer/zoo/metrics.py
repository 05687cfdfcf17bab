"""Metrics that need labels, for the tasks of the zoo.

Legend: N detections, M true objects; 4 = left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xinfer.errors import InputError
from xinfer.postproc.boxes import iou_matrix

RECALL_LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Boxes of one image: true ones, or detections with `scores`."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None


def average_precision(
    detections: Sequence[Objects], truths: Sequence[Objects], *, iou_threshold: float = 0.5
) -> dict[int, float]:
    """Average precision of each class that occurs.

    Args:
        detections: One for each image, with scores; weak ones belong in too.
        truths: One for each image, in the same order.
        iou_threshold: From this overlap on a detection is a hit; each true object is hit once, by the
            strongest detection.

    Returns:
        Class -> average precision in 0..1; the mean over the classes is mAP.

    Raises:
        InputError: The lists do not fit.

    Source: T.-Y. Lin et al., "Microsoft COCO" (ECCV 2014) and its evaluation code `cocoeval.py`: greedy
    matching by falling score, precision made monotone and read at 101 recall levels. No crowds, no areas.
    """
    if len(detections) != len(truths):
        raise InputError(
            f"{len(detections)} detections for {len(truths)} images", value=[len(detections), len(truths)]
        )
    classes = sorted({int(label) for truth in truths for label in truth.classes})
    return {label: _of_class(label, detections, truths, iou_threshold) for label in classes}


def _of_class(
    label: int, detections: Sequence[Objects], truths: Sequence[Objects], iou_threshold: float
) -> float:
    scores, hits, num_true = [], [], 0
    for found, true in zip(detections, truths, strict=True):
        true_M4 = true.boxes[true.classes == label]
        num_true += len(true_M4)
        if found.scores is None:
            raise InputError("detections need scores")
        chosen = np.flatnonzero(found.classes == label)
        chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")]
        free_M = np.ones(len(true_M4), bool)
        overlap_NM = iou_matrix(found.boxes[chosen], true_M4) if len(true_M4) and len(chosen) else None
        for row, index in enumerate(chosen):
            scores.append(float(found.scores[index]))
            hit = False
            if overlap_NM is not None and free_M.any():
                best = int(np.where(free_M, overlap_NM[row], -1).argmax())
                hit = bool(overlap_NM[row, best] >= iou_threshold)
                free_M[best] &= not hit
            hits.append(hit)
    if not scores:
        return 0.0
    order = np.argsort(-np.array(scores), kind="stable")
    true_positives = np.cumsum(np.array(hits)[order])
    recall = true_positives / num_true
    precision = true_positives / np.arange(1, len(order) + 1)
    # At each recall the best precision that any threshold with at least this recall gives.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    # 3 of 10 objects are 0.30 of them, whatever the last bit says.
    places = np.searchsorted(recall, RECALL_LEVELS - 1e-9, side="left")
    return float(np.append(precision, 0.0)[places].mean())
