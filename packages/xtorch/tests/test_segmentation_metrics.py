"""Overlap figures against brute force and against the streaming metric; intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xtorch.segmentation_metrics import (
    boundary_counts,
    class_intervals,
    confusion_counts,
    dice_by_class,
    intervals,
    iou_by_class,
    mean_iou,
    pixel_accuracy,
)
from xtorch.streaming import MeanIoU


def pictures(seed: int, num: int = 12, classes: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(num):
        truth = rng.integers(0, classes - 1, (3, 4), np.uint8).repeat(6, axis=0).repeat(5, axis=1)
        answer = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(0, classes - 1, truth.shape))
        truth[0] = 255
        made.append((truth, answer.astype(np.uint8)))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_sets_of_pixels(seed: int) -> None:
    made = pictures(seed)
    counts = sum(confusion_counts(truth, answer, 4) for truth, answer in made)
    assert isinstance(counts, np.ndarray)
    truth = np.concatenate([each.ravel() for each, _ in made])
    answer = np.concatenate([each.ravel() for _, each in made])[truth != 255]
    truth = truth[truth != 255]
    iou, dice = iou_by_class(counts), dice_by_class(counts)
    for number in range(3):
        true, said = truth == number, answer == number
        assert iou[number] == pytest.approx((true & said).sum() / (true | said).sum())
        assert dice[number] == pytest.approx(2 * (true & said).sum() / (true.sum() + said.sum()))
    assert math.isnan(iou[3]), "neither there nor answered"
    assert mean_iou(counts) == pytest.approx(np.nanmean(iou))
    assert pixel_accuracy(counts) == pytest.approx((truth == answer).mean())
    streaming = MeanIoU(4)
    for true_HW, said_HW in made:
        streaming.update(np.eye(4)[said_HW].transpose(2, 0, 1)[None], true_HW[None])
    assert mean_iou(counts) == pytest.approx(streaming.compute())


def test_nothing_at_all_is_zero() -> None:
    assert mean_iou(np.zeros((3, 3), np.int64)) == 0.0
    assert not confusion_counts(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), 2).any()


def test_boundaries_see_what_overlap_does_not() -> None:
    truth = np.zeros((200, 200), np.uint8)
    truth[40:160, 40:160] = 1
    larger = np.zeros_like(truth)
    larger[34:166, 34:166] = 1

    def boundary_iou(answer: np.ndarray) -> float:
        both, either = boundary_counts(truth, answer, 2)[1]
        return float(both / either)

    assert boundary_iou(truth) == 1.0
    # 2 % of the diagonal of 283 pixels are 6: the rings 34..40 and 40..46 do not meet.
    assert boundary_iou(larger) == 0.0
    ring = 120**2 - 108**2
    assert boundary_counts(truth, truth, 2)[1].tolist() == [ring, ring]
    assert iou_by_class(confusion_counts(truth, larger, 2))[1] > 0.8
    counts = boundary_counts(truth, np.full_like(truth, 3), 4)
    assert counts[:, 0].tolist() == [0, 0, 0, 0]
    assert counts[2].tolist() == [0, 0]


def test_intervals_hold_the_value_and_narrow_with_more_images() -> None:
    def width(num: int) -> float:
        made = pictures(0, num)
        counts = np.stack([confusion_counts(truth, answer, 4) for truth, answer in made])
        edges = np.stack([boundary_counts(truth, answer, 4) for truth, answer in made])
        found = intervals(counts, edges, background=0, seed=1)
        assert set(found) == {"mean_iou", "dice", "pixel_accuracy", "boundary_iou", "foreground_iou"}
        assert all(each.low <= each.value <= each.high for each in found.values())
        assert found["mean_iou"].value == pytest.approx(mean_iou(counts.sum(axis=0)))
        assert found["foreground_iou"].value == pytest.approx(
            float(np.nanmean(iou_by_class(counts.sum(axis=0))[1:]))
        )
        assert found == intervals(counts, edges, background=0, seed=1)
        rows = class_intervals(counts, seed=1)
        assert rows[3] is None
        assert rows[1] is not None
        assert rows[1].low < rows[1].value < rows[1].high
        return found["mean_iou"].high - found["mean_iou"].low

    assert width(80) < width(8)
    assert "foreground_iou" not in intervals(np.ones((3, 2, 2)), np.ones((3, 2, 2)), background=None)
