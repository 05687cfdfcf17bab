"""AUPRO and pixel AUROC against the definitions, written out slowly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from xtorch.tasks.anomaly.pixels import count_pixels, pixel_metrics


def slow_aupro(maps_NHW: np.ndarray, masks_NHW: np.ndarray, *, max_fpr: float) -> float:
    """Bergmann et al. (IJCV 2021), section 5.3.1: for every threshold, the mean overlap of the regions."""
    points = [(0.0, 0.0)]
    good = maps_NHW[~masks_NHW]
    regions = []
    for map_HW, mask_HW in zip(maps_NHW, masks_NHW, strict=True):
        labelled, number = ndimage.label(mask_HW, structure=np.ones((3, 3)))
        regions += [map_HW[labelled == index + 1] for index in range(number)]
    for threshold in np.unique(maps_NHW)[::-1]:
        overlap = np.mean([(region >= threshold).mean() for region in regions])
        points.append(((good >= threshold).mean(), float(overlap)))
    x, y = (np.array(axis) for axis in zip(*points, strict=True))
    inside = x <= max_fpr
    at_limit = np.interp(max_fpr, x, y)
    return float(np.trapezoid(np.append(y[inside], at_limit), np.append(x[inside], max_fpr)) / max_fpr)


def example(seed: int, *, signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks [12,24,24]: four images without defect, the others with one to three of any size."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((12, 24, 24), dtype=bool)
    for mask_HW in masks[4:]:
        for _ in range(int(rng.integers(1, 4))):
            y, x = rng.integers(0, 20, 2)
            mask_HW[y : y + int(rng.integers(1, 8)), x : x + int(rng.integers(1, 8))] = True
    return rng.normal(size=masks.shape) + signal * masks, masks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("signal", [0.0, 1.0, 4.0])
def test_areas_are_those_of_the_definitions(seed: int, signal: float) -> None:
    maps, masks = example(seed, signal=signal)
    found = pixel_metrics(count_pixels(maps, list(masks)), seed=0)
    assert found["aupro"].value == pytest.approx(slow_aupro(maps, masks, max_fpr=0.3), abs=1e-3)
    assert found["pixel_auroc"].value == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-3)
    for interval in found.values():
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_every_region_weighs_the_same_whatever_its_size() -> None:
    """A large region that is found and a small one that is not: half the regions."""
    maps, masks = np.zeros((1, 40, 40)), np.zeros((1, 40, 40), dtype=bool)
    masks[0, :20, :20] = masks[0, 30, 30] = True
    maps[0, :20, :20] = 1
    maps += np.random.default_rng(0).uniform(0, 1e-3, maps.shape)
    maps[0, 30, 30] = -1
    assert pixel_metrics(count_pixels(maps, list(masks)), seed=0)["aupro"].value == pytest.approx(
        0.5, abs=0.01
    )


def test_diagonal_neighbours_are_one_region() -> None:
    mask = np.eye(6, dtype=bool)
    counts = count_pixels(np.zeros((1, 6, 6)), [mask])
    assert counts.overlap.sum() == pytest.approx(1)
    assert counts.defective.sum() == 6


def test_images_without_mask_count_as_good() -> None:
    maps, masks = example(0, signal=2.0)
    none = [mask if mask.any() else None for mask in masks]
    first, second = (pixel_metrics(count_pixels(maps, each), seed=3) for each in (list(masks), none))
    assert first == second
