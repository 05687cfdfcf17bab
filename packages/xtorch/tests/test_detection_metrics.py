from __future__ import annotations

import numpy as np
import pytest

from xtorch.detection_metrics import (
    AREAS,
    ImageBoxes,
    above,
    average_precision,
    best_threshold,
    coco_metrics,
    confusion_matrix,
    error_kinds,
    intervals,
    match,
    precision_recall,
)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def truth(*rows: tuple[int, tuple[float, ...]]) -> ImageBoxes:
    return ImageBoxes(
        boxes=boxes(*(row[1] for row in rows)), labels=np.array([row[0] for row in rows], np.int64)
    )


def answer(*rows: tuple[int, float, tuple[float, ...]]) -> ImageBoxes:
    return ImageBoxes(
        boxes=boxes(*(row[2] for row in rows)),
        labels=np.array([row[0] for row in rows], np.int64),
        scores=np.array([row[1] for row in rows], float),
    )


def scene(seed: int, *, images: int = 25, classes: int = 3) -> tuple[list[ImageBoxes], list[ImageBoxes]]:
    """Random truth, with crowds, and answers that are near it, wrong, doubled, or of another class."""
    rng = np.random.default_rng(seed)
    found, true = [], []
    for _ in range(images):
        num = int(rng.integers(0, 9))
        corner, size = (
            rng.uniform(0, 400, (num, 2)),
            rng.choice([12.0, 50.0, 150.0], (num, 1)) * rng.uniform(0.6, 1.4, (num, 2)),
        )
        true_M4 = np.concatenate([corner, corner + size], axis=1)
        labels = rng.integers(0, classes, num)
        true.append(ImageBoxes(boxes=true_M4, labels=labels, ignored=rng.random(num) < 0.15))
        moved = true_M4.repeat(2, axis=0) + rng.normal(0, 0.12, (2 * num, 4)) * size.repeat(2, axis=0).repeat(
            2, axis=1
        )
        extra = rng.uniform(0, 400, (4, 2))
        all_boxes = np.concatenate(
            [moved, np.concatenate([extra, extra + rng.uniform(5, 200, (4, 2))], axis=1)]
        )
        all_labels = np.concatenate([labels.repeat(2), rng.integers(0, classes, 4)])
        wrong = rng.random(len(all_labels)) < 0.15
        all_labels = np.where(wrong, rng.integers(0, classes, len(all_labels)), all_labels)
        # Few levels, so that scores tie.
        scores = rng.integers(1, 40, len(all_labels)) / 40
        stays = (all_boxes[:, 2:] - all_boxes[:, :2]).min(axis=1) > 1
        found.append(ImageBoxes(boxes=all_boxes[stays], labels=all_labels[stays], scores=scores[stays]))
    return found, true


@pytest.mark.parametrize("seed", range(4))
def test_our_matching_gives_what_faster_coco_eval_gives(seed: int) -> None:
    found, true = scene(seed)
    reference = coco_metrics(found, true, 3)
    for label in range(3):
        own = average_precision(match(found, true, label))
        assert own.mean() == pytest.approx(reference.by_class[label]["ap"], abs=1e-9)
        assert own[0] == pytest.approx(reference.by_class[label]["ap50"], abs=1e-9)
    for size, area in AREAS.items():
        values = [average_precision(match(found, true, label, area=area)).mean() for label in range(3)]
        assert np.nanmean(values) == pytest.approx(reference.overall[f"map_{size}"], abs=1e-9)


def test_intervals_hold_cocos_value_and_the_spread_of_images() -> None:
    found, true = scene(7, images=40)
    reference = coco_metrics(found, true, 3).overall
    result = intervals(found, true, 3, seed=1, resamples=60)
    assert set(result) == {"map", "map50", "map_small", "map_medium", "map_large"}
    for name, interval in result.items():
        assert interval.value == pytest.approx(reference[name], abs=1e-9)
        assert interval.low < interval.value < interval.high
    # Four times the images halve the interval, roughly.
    larger = intervals(found * 4, true * 4, 3, seed=1, resamples=60)
    ratio = (larger["map50"].high - larger["map50"].low) / (result["map50"].high - result["map50"].low)
    assert 0.3 < ratio < 0.75


def test_a_weight_counts_as_often_as_the_image_would() -> None:
    found, true = scene(3, images=6)
    weights = np.array([2.0, 0, 1, 3, 0, 1])
    repeated = [index for index, weight in enumerate(weights) for _ in range(int(weight))]
    weighted = average_precision(match(found, true, 0), weights)
    plain = average_precision(match([found[i] for i in repeated], [true[i] for i in repeated], 0))
    np.testing.assert_allclose(weighted, plain)


def test_average_precision_by_hand() -> None:
    # Ranked: right, wrong, right; two of three objects found.
    true = [truth((0, (0, 0, 10, 10)), (0, (20, 0, 30, 10)), (0, (40, 0, 50, 10)))]
    found = [answer((0, 0.9, (0, 0, 10, 10)), (0, 0.8, (70, 0, 80, 10)), (0, 0.7, (20, 0, 30, 10)))]
    # Recall levels 0..0.33 (34 of 101) have precision 1, 0.34..0.66 (33) have 2/3, the rest 0.
    expected = (34 * 1.0 + 33 * 2 / 3) / 101
    assert coco_metrics(found, true, 1).map50 == pytest.approx(expected)
    assert average_precision(match(found, true, 0))[0] == pytest.approx(expected)


def test_metrics_of_nothing() -> None:
    empty = answer()
    assert coco_metrics([empty], [truth()], 2).overall["map50"] is None
    nothing_found = coco_metrics([empty], [truth((1, (0, 0, 5, 5)))], 2)
    assert nothing_found.overall["map50"] == 0.0
    assert nothing_found.by_class == {1: {"ap": 0.0, "ap50": 0.0}}
    assert intervals([empty], [truth()], 2, resamples=5) == {}


def test_best_threshold_lies_between_the_last_right_and_the_next_wrong() -> None:
    true = [truth((0, (0, 0, 10, 10)), (0, (20, 0, 30, 10)))]
    found = [answer((0, 0.9, (0, 0, 10, 10)), (0, 0.6, (20, 0, 30, 10)), (0, 0.2, (70, 0, 80, 10)))]
    matches = match(found, true, 0, overlaps=[0.5])
    assert best_threshold(matches) == pytest.approx(0.4)
    assert len(above(found, [0.4])[0].labels) == 2
    _, precision, recall = precision_recall(matches)
    np.testing.assert_allclose(precision, [1, 1, 2 / 3])
    np.testing.assert_allclose(recall, [0.5, 1, 1])
    assert best_threshold(match([answer()], true, 0, overlaps=[0.5])) is None


def test_min_precision_takes_the_lowest_threshold_that_keeps_it() -> None:
    true = [truth(*((0, (20.0 * i, 0, 20.0 * i + 10, 10)) for i in range(4)))]
    rows = [
        (0, 0.9, (0, 0, 10, 10)),
        (0, 0.8, (0, 50, 10, 60)),
        (0, 0.7, (20, 0, 30, 10)),
        (0, 0.6, (40, 0, 50, 10)),
    ]
    matches = match([answer(*rows)], true, 0, overlaps=[0.5])  # type: ignore[arg-type]
    assert best_threshold(matches, min_precision=0.75) == pytest.approx(0.3)
    assert best_threshold(matches, min_precision=0.9) == pytest.approx(0.85)


def test_kinds_of_mistakes_and_confusion_by_hand() -> None:
    true = [
        truth(
            (0, (0, 0, 10, 10)),
            (0, (20, 0, 30, 10)),
            (1, (40, 0, 50, 10)),
            (1, (60, 0, 70, 10)),
            (0, (80, 0, 90, 10)),
            (1, (100, 0, 110, 10)),
        )
    ]
    shown = [
        answer(
            (0, 0.99, (0, 0, 10, 10)),  # right
            (0, 0.98, (0, 0, 10, 9)),  # duplicate
            (1, 0.97, (20, 0, 30, 10)),  # classification
            (1, 0.96, (46, 0, 56, 10)),  # localisation: overlap 4 / 16
            (0, 0.95, (66, 0, 76, 10)),  # both: overlap 0.25 with another class
            (0, 0.94, (200, 0, 210, 10)),  # background
        )
    ]
    # Of the six objects one is found and two are spoken of; three are missed.
    assert error_kinds(shown, true) == {
        "classification": 1,
        "localisation": 1,
        "both": 1,
        "duplicate": 1,
        "background": 1,
        "missed": 3,
    }
    assert confusion_matrix(shown, true, 2).tolist() == [[1, 1, 1], [0, 0, 3], [3, 1, 0]]


def test_crowds_are_neither_missed_nor_wrong() -> None:
    crowd = ImageBoxes(boxes=boxes((0, 0, 100, 100)), labels=np.array([0]), ignored=np.array([True]))
    shown = [answer((0, 0.9, (0, 0, 20, 20)), (0, 0.8, (30, 30, 60, 60)))]
    matches = match(shown, [crowd], 0, overlaps=[0.5])
    assert matches.left_out.all()
    assert matches.num_true.sum() == 0
