"""Non-maximum suppression: of boxes that overlap, the one with the highest score stays.

Legend: B images, N boxes, C classes, M candidates (boxes at or over the score threshold, best first),
K kept boxes; 4 = x1, y1, x2, y2.

Greedy: candidates are taken by falling score, equal scores by rising index, and one stays unless its
overlap with one that stayed before it is *above* the threshold. Overlap is decided in float32 as
`intersection > iou_threshold * union`, one rounding per operation in one order, so that every
implementation keeps the same boxes to the last one:

- ``numba`` (extra "fast"): compiled, compares with the kept boxes only. Compiling takes a second or two, once
  per machine where numba can keep its cache; `warm_up` does it ahead of the first request.
- ``numpy``: pairs of one class in blocks, then a greedy pass over rows of bits.

OpenCV's NMSBoxes is no third one: it shifts the classes apart in space, which rounds overlaps differently.

Source: greedy suppression as in P. Felzenszwalb et al., "Object Detection with Discriminatively Trained
Part-Based Models", PAMI 2010, section 7.1; per class as in torchvision.ops.batched_nms's documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from xinfer.errors import InputError, MissingExtraError

Implementation = Literal["auto", "numpy", "numba"]
Suppress = Callable[[np.ndarray, np.ndarray, np.ndarray, np.float32, np.float32, int], np.ndarray]
"""(boxes_N4, scores_N, labels_N, iou_threshold, score_threshold, max_detections) -> indices int64 [K]; an
empty labels_N means one class."""

BLOCK = 256
"""Candidates compared with each other at once: a block's pairs fit the second-level cache."""
_ONE_CLASS = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What stays of one image's boxes, best first.

    Attributes:
        indices: int64 [K], into the N boxes.
        labels: int64 [K], class numbers.
        scores: float32 [K].
    """

    indices: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def nms(
    boxes_N4: np.ndarray,
    scores_N: np.ndarray,
    labels_N: np.ndarray | None = None,
    *,
    iou_threshold: float = 0.45,
    score_threshold: float = 0.0,
    max_detections: int = 300,
    class_aware: bool = True,
    implementation: Implementation = "auto",
) -> np.ndarray:
    """Which boxes stay.

    Args:
        boxes_N4: x1, y1, x2, y2 in any unit; compared as float32. Boxes and scores that are not finite
            never stay. Empty boxes overlap nothing.
        scores_N: Scores, compared as float32.
        labels_N: Class numbers; left out, all boxes are of one class.
        iou_threshold: 0..1; a box goes when its overlap (intersection over union) is above.
        score_threshold: Boxes with a lower score are left out.
        max_detections: At most so many stay, those with the highest scores.
        class_aware: Whether boxes of different classes leave each other alone.
        implementation: "auto" takes numba where it is installed; all keep the same boxes.

    Returns:
        Indices int64 [K] of the boxes that stay, by falling score.

    Raises:
        InputError: Shapes or thresholds do not fit.
        MissingExtraError: "numba" was asked for and is not installed.

    Source: see the top of the module.
    """
    boxes_N4 = np.asarray(boxes_N4, np.float32)
    scores_N = np.asarray(scores_N, np.float32)
    if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4:
        raise InputError(f"boxes must be [N,4], not {list(boxes_N4.shape)}", value=list(boxes_N4.shape))
    if scores_N.shape != boxes_N4.shape[:1]:
        raise InputError(
            f"scores must be [{len(boxes_N4)}] as the boxes are, not {list(scores_N.shape)}",
            value=list(scores_N.shape),
        )
    if labels_N is not None:
        labels_N = np.asarray(labels_N)
        if labels_N.shape != scores_N.shape or labels_N.dtype.kind not in "iu":
            raise InputError(
                f"labels must be {len(boxes_N4)} whole numbers, not {labels_N.dtype} {list(labels_N.shape)}",
                value=list(labels_N.shape),
            )
    _check(iou_threshold, max_detections)
    if labels_N is None or not class_aware:
        labels_N = _ONE_CLASS
    return _suppress(implementation)(
        np.ascontiguousarray(boxes_N4),
        np.ascontiguousarray(scores_N),
        np.ascontiguousarray(labels_N, np.int64),
        np.float32(iou_threshold),
        np.float32(score_threshold),
        max_detections,
    )


def batched_nms(
    boxes_BN4: np.ndarray,
    scores_BNC: np.ndarray,
    *,
    iou_threshold: float = 0.45,
    score_threshold: float = 0.25,
    max_detections: int = 300,
    class_aware: bool = True,
    multi_label: bool = False,
    implementation: Implementation = "auto",
) -> list[Kept]:
    """Which boxes stay, of a batch of images with a score per class.

    Args:
        boxes_BN4: x1, y1, x2, y2.
        scores_BNC: A score per box and class.
        iou_threshold: As in `nms`.
        score_threshold: As in `nms`.
        max_detections: Per image.
        class_aware: As in `nms`.
        multi_label: Whether a box counts once for every class at or over the threshold, as in COCO
            evaluations, instead of once, for its best class (the first of equal ones).
        implementation: As in `nms`.

    Returns:
        What stays, one entry per image.

    Raises:
        InputError: Shapes or thresholds do not fit.
        MissingExtraError: "numba" was asked for and is not installed.
    """
    boxes_BN4 = np.asarray(boxes_BN4, np.float32)
    scores_BNC = np.asarray(scores_BNC, np.float32)
    if boxes_BN4.ndim != 3 or boxes_BN4.shape[2] != 4:
        raise InputError(f"boxes must be [B,N,4], not {list(boxes_BN4.shape)}", value=list(boxes_BN4.shape))
    if scores_BNC.ndim != 3 or scores_BNC.shape[:2] != boxes_BN4.shape[:2] or scores_BNC.shape[2] == 0:
        raise InputError(
            f"scores must be {list(boxes_BN4.shape[:2])} + [C], not {list(scores_BNC.shape)}",
            value=list(scores_BNC.shape),
        )
    _check(iou_threshold, max_detections)
    suppress = _suppress(implementation)
    result = []
    for boxes_N4, scores_NC in zip(boxes_BN4, scores_BNC, strict=True):
        indices_M, labels_M = _candidates(scores_NC, np.float32(score_threshold), multi_label)
        scores_M = scores_NC[indices_M, labels_M]
        kept = suppress(
            boxes_N4[indices_M],
            scores_M,
            labels_M if class_aware else _ONE_CLASS,
            np.float32(iou_threshold),
            np.float32(score_threshold),
            max_detections,
        )
        result.append(Kept(indices=indices_M[kept], labels=labels_M[kept], scores=scores_M[kept]))
    return result


def warm_up() -> bool:
    """Compiles what can be compiled, ahead of the first call.

    Returns:
        Whether there is a compiled implementation.
    """
    return _suppress("auto") is not suppress_numpy


def suppress_numpy(
    boxes_N4: np.ndarray,
    scores_N: np.ndarray,
    labels_N: np.ndarray,
    iou_threshold: np.float32,
    score_threshold: np.float32,
    max_detections: int,
) -> np.ndarray:
    """The implementation in NumPy. See `Suppress`."""
    candidates_M = np.flatnonzero(scores_N >= score_threshold)
    candidates_M = candidates_M[_by_falling_score(scores_N[candidates_M])]
    boxes_M4 = boxes_N4[candidates_M]
    finite_M = np.isfinite(boxes_M4).all(axis=1) & np.isfinite(scores_N[candidates_M])
    if not finite_M.all():
        candidates_M, boxes_M4 = candidates_M[finite_M], boxes_M4[finite_M]
    labels_M = labels_N[candidates_M] if len(labels_N) else np.zeros(len(candidates_M), np.int64)
    # Areas of boxes near the end of the range overflow to infinity, in every implementation alike.
    with np.errstate(over="ignore", invalid="ignore"):
        return candidates_M[_greedy(boxes_M4, labels_M, iou_threshold, max_detections)]


def _greedy(
    boxes_M4: np.ndarray, labels_M: np.ndarray, iou_threshold: np.float32, max_detections: int
) -> np.ndarray:
    """Positions of those that stay, of candidates best first."""
    # Corners and area, each in one piece of memory.
    sides_5M = np.concatenate([boxes_M4.T, _areas(boxes_M4)[None]])
    kept: list[int] = []
    for start in range(0, len(labels_M), BLOCK):
        sides_5m, labels_m = sides_5M[:, start : start + BLOCK], labels_M[start : start + BLOCK]
        gone_m = np.zeros(len(labels_m), bool)
        if kept:
            gone_Km = _over(sides_5M[:, kept, None], sides_5m[:, None], iou_threshold)
            gone_m = (gone_Km & (labels_M[kept, None] == labels_m)).any(axis=0)
        rows = _rows_of_bits(sides_5m, labels_m, iou_threshold)
        gone = int.from_bytes(np.packbits(gone_m, bitorder="little").tobytes(), "little")
        for position, row in enumerate(rows):
            if not gone >> position & 1:
                kept.append(start + position)
                if len(kept) == max_detections:
                    return np.array(kept, np.int64)
                gone |= row
    return np.array(kept, np.int64)


def _rows_of_bits(sides_5m: np.ndarray, labels_m: np.ndarray, iou_threshold: np.float32) -> list[int]:
    """Row i as a whole number whose bit j says that i, staying, suppresses a later j of its class.

    Bits of earlier j say nothing: those are decided.
    """
    order_m = np.argsort(labels_m, kind="stable")
    sorted_m = labels_m[order_m]
    # Of each element, how many of its label still follow: its group ends where the next label starts.
    counts_m = np.searchsorted(sorted_m, sorted_m, side="right") - np.arange(len(sorted_m)) - 1
    num_pairs = int(counts_m.sum())
    if num_pairs * 8 > len(labels_m) ** 2:
        # Few classes: all pairs side by side cost less than picking out those of one class.
        over_mm = _over(sides_5m[:, :, None], sides_5m[:, None], iou_threshold)
        over_mm &= labels_m[:, None] == labels_m
    else:
        first_P = np.repeat(np.arange(len(sorted_m)), counts_m)
        steps_P = np.arange(num_pairs) - np.repeat(np.cumsum(counts_m) - counts_m, counts_m)
        first_P, second_P = order_m[first_P], order_m[first_P + 1 + steps_P]
        over_P = _over(sides_5m[:, first_P], sides_5m[:, second_P], iou_threshold)
        over_mm = np.zeros((len(labels_m), len(labels_m)), bool)
        over_mm[first_P[over_P], second_P[over_P]] = True
    packed = np.packbits(over_mm, axis=1, bitorder="little")
    width, data = packed.shape[1], packed.tobytes()
    return [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(len(packed))]


def _areas(boxes_M4: np.ndarray) -> np.ndarray:
    zero = np.float32(0)
    widths_M = np.maximum(boxes_M4[:, 2] - boxes_M4[:, 0], zero)
    heights_M = np.maximum(boxes_M4[:, 3] - boxes_M4[:, 1], zero)
    areas_M: np.ndarray = widths_M * heights_M
    return areas_M


def _over(a_5: np.ndarray, b_5: np.ndarray, iou_threshold: np.float32) -> np.ndarray:
    """Whether pairs overlap above the threshold; corners and area stand first, the other axes broadcast."""
    zero = np.float32(0)
    width = np.maximum(np.minimum(a_5[2], b_5[2]) - np.maximum(a_5[0], b_5[0]), zero)
    intersection = np.maximum(np.minimum(a_5[3], b_5[3]) - np.maximum(a_5[1], b_5[1]), zero)
    intersection *= width
    over: np.ndarray = intersection > iou_threshold * (a_5[4] + b_5[4] - intersection)
    return over


def _by_falling_score(scores_M: np.ndarray) -> np.ndarray:
    """Positions int64 by falling score, equal ones by rising position.

    One sort of whole numbers that hold score and position, which NumPy does several times faster than
    a stable argsort of floats: IEEE 754 floats order like their bits once negative ones are flipped.
    """
    # Adding zero makes -0.0 equal to 0.0, as floats compare.
    bits_M = (scores_M + np.float32(0)).view(np.uint32)
    falling_M = np.where(bits_M >> 31, bits_M, ~bits_M & np.uint32(0x7FFFFFFF))
    keys_M = falling_M.astype(np.uint64) << np.uint64(32) | np.arange(len(scores_M), dtype=np.uint64)
    keys_M.sort()
    return (keys_M & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _candidates(
    scores_NC: np.ndarray, score_threshold: np.float32, multi_label: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Box and class numbers of the candidates: few, so the flat comparison comes before any maximum."""
    flat = np.flatnonzero(scores_NC >= score_threshold)
    rows_M, labels_M = np.divmod(flat, scores_NC.shape[1])
    if multi_label or not len(flat):
        return rows_M, labels_M
    rows_M = rows_M[np.concatenate(([True], rows_M[1:] != rows_M[:-1]))]
    best_MC = np.where(np.isnan(scores_NC[rows_M]), -np.inf, scores_NC[rows_M])
    return rows_M, best_MC.argmax(axis=1)


def _check(iou_threshold: float, max_detections: int) -> None:
    if not 0 <= iou_threshold <= 1:
        raise InputError(f"iou_threshold must lie in 0..1, not {iou_threshold}", value=iou_threshold)
    if max_detections < 1:
        raise InputError(f"max_detections must be positive, not {max_detections}", value=max_detections)


@cache
def _suppress(implementation: Implementation) -> Suppress:
    if implementation == "numpy":
        return suppress_numpy
    if implementation not in ("auto", "numba"):
        raise InputError(
            f"{implementation!r} is no implementation of nms", value=implementation, hint="auto, numpy, numba"
        )
    try:
        from xinfer.postproc.nms_numba import suppress_numba
    except (MissingExtraError, ImportError):
        # numba refuses, with a plain ImportError, NumPy versions that it does not know yet.
        if implementation == "numba":
            raise
        return suppress_numpy
    return suppress_numba
