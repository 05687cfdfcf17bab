"""How good masks of classes are: overlap, Dice, pixel accuracy, boundaries, with 95 % intervals over images.

All figures follow from counts of pixels of each image, which add up over images.

Shapes: N images, K classes (rows of counts are the truth, columns the answer), H and W rows and columns.
"""

from __future__ import annotations

import math
import warnings

import cv2
import numpy as np

from xtorch.metrics import Interval

IGNORED = 255
"""Class number of pixels that are not counted."""
_RESAMPLES = 1000
_BOUNDARY_SHARE = 0.02
"""Of the image's diagonal: how wide a boundary is."""


def confusion_counts(truth_HW: np.ndarray, answer_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels by true and answered class, int64 [K,K].

    Args:
        truth_HW: Class numbers; those from `num_classes` on are not counted.
        answer_HW: Class numbers below `num_classes`.
    """
    known_HW = truth_HW < num_classes
    pairs = truth_HW[known_HW].astype(np.int64) * num_classes + answer_HW[known_HW]
    counts: np.ndarray = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts


def iou_by_class(counts_KK: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 [...,K]; NaN where it is neither there nor answered.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2015), section 4.1.3.
    """
    hits, true, said = _margins(counts_KK)
    return _ratio(hits, true + said - hits)


def dice_by_class(counts_KK: np.ndarray) -> np.ndarray:
    """Dice's coefficient, which is F1, of each class, float64 [...,K]; NaN as for `iou_by_class`.

    Source: Dice, "Measures of the Amount of Ecologic Association Between Species" (Ecology 1945).
    """
    hits, true, said = _margins(counts_KK)
    return _ratio(2 * hits, true + said)


def mean_iou(counts_KK: np.ndarray) -> float:
    """Mean of `iou_by_class` over the classes that are there or answered; 0 where there is none."""
    return _mean(iou_by_class(counts_KK))


def pixel_accuracy(counts_KK: np.ndarray) -> np.ndarray:
    """Share of right pixels, float64 [...]."""
    hits, true, _ = _margins(counts_KK)
    return _ratio(hits.sum(axis=-1), true.sum(axis=-1))


def boundary_counts(truth_HW: np.ndarray, answer_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """Intersection and union of the boundaries of each class, int64 [K,2].

    A boundary is what of a class lies within 2 % of the diagonal of its outline; the image's edge is an
    outline too.

    Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (CVPR 2021),
    equation 2, with the code's width.
    """
    height, width = truth_HW.shape
    reach = max(1, round(_BOUNDARY_SHARE * math.hypot(height, width)))
    known_HW = truth_HW < num_classes
    counts = np.zeros((num_classes, 2), np.int64)
    for number in np.union1d(np.unique(truth_HW[known_HW]), np.unique(answer_HW)):
        true_HW = _boundary(truth_HW == number, reach) & known_HW
        said_HW = _boundary(answer_HW == number, reach) & known_HW
        counts[number] = (true_HW & said_HW).sum(), (true_HW | said_HW).sum()
    return counts


def _boundary(mask_HW: np.ndarray, reach: int) -> np.ndarray:
    if not mask_HW.any():
        return mask_HW
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    inner_HW = cv2.erode(
        mask_HW.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0)
    )
    return mask_HW & (inner_HW == 0)


def intervals(
    counts_NKK: np.ndarray, boundaries_NK2: np.ndarray, *, background: int | None, seed: int = 0
) -> dict[str, Interval]:
    """``mean_iou``, ``dice``, ``pixel_accuracy``, ``boundary_iou``, and ``foreground_iou`` where a class is
    the background: values over all pixels, percentile bootstrap intervals over images.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    resampled_RKK = _resampled(counts_NKK, seed)
    boundaries_RK2 = _resampled(boundaries_NK2, seed)

    def figures(counts: np.ndarray, boundaries: np.ndarray) -> dict[str, np.ndarray]:
        iou = iou_by_class(counts)
        found = {
            "mean_iou": _mean_over_classes(iou),
            "dice": _mean_over_classes(dice_by_class(counts)),
            "pixel_accuracy": pixel_accuracy(counts),
            "boundary_iou": _mean_over_classes(_ratio(boundaries[..., 0], boundaries[..., 1])),
        }
        if background is not None:
            found["foreground_iou"] = _mean_over_classes(np.delete(iou, background, axis=-1))
        return found

    values = figures(counts_NKK.sum(axis=0), boundaries_NK2.sum(axis=0))
    spread = figures(resampled_RKK, boundaries_RK2)
    return {name: _interval(float(value), spread[name]) for name, value in values.items()}


def class_intervals(counts_NKK: np.ndarray, *, seed: int = 0) -> list[Interval | None]:
    """IoU of each class with its interval; None for a class that is neither there nor answered."""
    values_K = iou_by_class(counts_NKK.sum(axis=0))
    spread_RK = iou_by_class(_resampled(counts_NKK, seed))
    return [
        None if math.isnan(value) else _interval(float(value), spread_RK[:, number])
        for number, value in enumerate(values_K)
    ]


def _resampled(counts_N: np.ndarray, seed: int) -> np.ndarray:
    """Sums over images drawn with replacement, [R,...]."""
    num = len(counts_N)
    rng = np.random.default_rng(seed)
    times_RN = rng.multinomial(num, np.full(num, 1 / num), size=_RESAMPLES)
    # In float64: integer products have no fast path, and counts stay exact below 2**53.
    flat = times_RN.astype(np.float64) @ counts_N.reshape(num, -1).astype(np.float64)
    return flat.reshape(_RESAMPLES, *counts_N.shape[1:])


def _interval(value: float, spread_R: np.ndarray) -> Interval:
    known = spread_R[np.isfinite(spread_R)]
    if not math.isfinite(value):
        return Interval(0.0, 0.0, 1.0)
    if not len(known):
        return Interval(value, value, value)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, min(float(low), value), max(float(high), value))


def _margins(counts_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right pixels, true ones and answered ones of each class, [...,K]."""
    return np.diagonal(counts_KK, axis1=-2, axis2=-1), counts_KK.sum(axis=-1), counts_KK.sum(axis=-2)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _mean_over_classes(values_K: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # Of nothing, the mean is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values_K, axis=-1))


def _mean(values_K: np.ndarray) -> float:
    value = float(_mean_over_classes(values_K))
    return value if math.isfinite(value) else 0.0
