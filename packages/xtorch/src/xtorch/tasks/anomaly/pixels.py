"""How well anomaly maps mark the defects that masks outline: pixel AUROC and AUPRO.

Maps are compared at `SIDE_PX` x `SIDE_PX`. Values are sorted into `_LEVELS` levels that hold about the same
number of pixels each, so that memory does not grow with the pixels; areas are off by less than 1e-3 for it.

Shapes: N images, H and W rows and columns, L levels, B resamples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xtorch.metrics import Interval

SIDE_PX = 256
MAX_FPR = 0.3
"""Up to this share of false pixels AUPRO is integrated."""
_LEVELS = 2048
_RESAMPLES = 200
_EDGE_SAMPLES = 1_000_000
_NEIGHBOURS_33 = np.ones((3, 3), dtype=int)


@dataclass(frozen=True, kw_only=True)
class PixelCounts:
    """Pixels by level, the highest level first, of each image: float64 [N,L].

    Attributes:
        good: Pixels outside of the masks.
        defective: Pixels inside.
        overlap: The same, each weighing 1 / size of its region: a row sums to its number of regions.
    """

    good: np.ndarray
    defective: np.ndarray
    overlap: np.ndarray


def count_pixels(
    maps_NHW: np.ndarray, masks: Iterable[np.ndarray | None], *, levels: int = _LEVELS
) -> PixelCounts:
    """
    Args:
        maps_NHW: Float; higher means stranger.
        masks: For each map, bool [H,W], true where it is defective; None: nowhere.
        levels: How finely values are told apart.
    """
    step = max(1, maps_NHW.size // _EDGE_SAMPLES)
    edges = np.quantile(maps_NHW.reshape(-1)[::step], np.linspace(0, 1, levels + 1)[1:-1])
    good_NL, defective_NL, overlap_NL = np.zeros((3, len(maps_NHW), levels))
    for row, (map_HW, mask_HW) in enumerate(zip(maps_NHW, masks, strict=True)):
        level_HW = levels - 1 - np.searchsorted(edges, map_HW, side="right")
        if mask_HW is None or not mask_HW.any():
            good_NL[row] = np.bincount(level_HW.ravel(), minlength=levels)
            continue
        good_NL[row] = np.bincount(level_HW[~mask_HW], minlength=levels)
        defective_NL[row] = np.bincount(level_HW[mask_HW], minlength=levels)
        regions_HW, _ = ndimage.label(mask_HW, structure=_NEIGHBOURS_33)
        region = regions_HW[mask_HW]
        weights = 1.0 / np.bincount(region)[region]
        overlap_NL[row] = np.bincount(level_HW[mask_HW], weights=weights, minlength=levels)
    return PixelCounts(good=good_NL, defective=defective_NL, overlap=overlap_NL)


def _shares(counts_BL: np.ndarray) -> np.ndarray:
    """Share of all that lies at a level or above, [B,L+1] from 0 to 1."""
    rising = np.cumsum(counts_BL, axis=1)
    return np.pad(rising / rising[:, -1:], ((0, 0), (1, 0)))


def _area(x_BL: np.ndarray, y_BL: np.ndarray, *, up_to: float) -> np.ndarray:
    """Area below piecewise linear curves from x = 0 to `up_to`, as a share of the box's: [B]."""
    left, right = x_BL[:, :-1], x_BL[:, 1:]
    width = right - left
    inside = np.clip((up_to - left) / np.where(width > 0, width, 1), 0, 1)
    below, above = y_BL[:, :-1], y_BL[:, 1:]
    area: np.ndarray = (inside * width * (below + 0.5 * inside * (above - below))).sum(axis=1) / up_to
    return area


def pixel_metrics(counts: PixelCounts, *, seed: int) -> dict[str, Interval]:
    """``pixel_auroc`` and ``aupro`` with 95 % intervals by a bootstrap over images.

    AUPRO is the area below the per-region overlap against the false positive rate, up to `MAX_FPR`, divided
    by it.

    Args:
        counts: At least one good pixel and one region.
        seed: Of the bootstrap.

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021), section 5.3.1; first in
    "Uninformed Students" (CVPR 2020), section 4.1. Regions are 8-connected, as in their evaluation code.
    """
    rng = np.random.default_rng(seed)
    with_defect = counts.defective.sum(axis=1) > 0
    weights_BN = np.ones((_RESAMPLES + 1, len(with_defect)))
    for group in (np.flatnonzero(with_defect), np.flatnonzero(~with_defect)):
        if len(group):
            shares = np.full(len(group), 1 / len(group))
            weights_BN[1:, group] = rng.multinomial(len(group), shares, size=_RESAMPLES)
    fpr_BL = _shares(weights_BN @ counts.good)
    found = {
        "pixel_auroc": _area(fpr_BL, _shares(weights_BN @ counts.defective), up_to=1.0),
        "aupro": _area(fpr_BL, _shares(weights_BN @ counts.overlap), up_to=MAX_FPR),
    }
    return {
        name: Interval(float(values[0]), *(float(q) for q in np.quantile(values[1:], [0.025, 0.975])))
        for name, values in found.items()
    }
