"""Average precision, by hand and against COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from xinfer import InputError
from xinfer.zoo.metrics import Objects, average_precision

A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]


def objects(boxes: list[list[float]], classes: list[int], scores: list[float] | None = None) -> Objects:
    return Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(classes, int),
        scores=None if scores is None else np.array(scores, np.float32),
    )


def test_average_precision_is_one_when_all_is_found_and_nothing_else() -> None:
    truth = [objects([A, B], [0, 3])]
    assert average_precision([objects([B, A], [3, 0], [0.2, 0.9])], truth) == {0: 1.0, 3: 1.0}


def test_average_precision_counts_a_second_hit_as_a_miss() -> None:
    truth = [objects([A, B], [0, 0])]
    found = [objects([A, A, B], [0, 0, 0], [0.9, 0.8, 0.7])]
    # Precision 1 up to half of the objects (51 of 101 recall levels), 2/3 beyond.
    assert average_precision(found, truth)[0] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_average_precision_is_zero_without_hits_and_without_detections() -> None:
    truth = [objects([A], [0]), objects([], [])]
    assert average_precision([objects([FAR], [0], [0.9]), objects([A], [0], [0.8])], truth) == {0: 0.0}
    assert average_precision([objects([], [], []), objects([A], [1], [0.8])], truth) == {0: 0.0}


def test_average_precision_honours_the_overlap() -> None:
    truth = [objects([A], [0])]
    found = [objects([[0, 0, 10, 6]], [0], [0.5])]
    assert average_precision(found, truth, iou_threshold=0.59)[0] == 1.0
    assert average_precision(found, truth, iou_threshold=0.61)[0] == 0.0


def test_average_precision_refuses_lists_that_do_not_fit() -> None:
    with pytest.raises(InputError):
        average_precision([], [objects([A], [0])])
    with pytest.raises(InputError):
        average_precision([objects([A], [0])], [objects([A], [0])])


def test_average_precision_equals_cocos_evaluation() -> None:
    coco_eval = pytest.importorskip("faster_coco_eval", reason="COCO's evaluation, for comparison")
    rng = np.random.default_rng(0)
    truths, found = [], []
    for _ in range(30):
        number = int(rng.integers(1, 8))
        corners = rng.uniform(0, 80, (number, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 50, (number, 2))], axis=1)
        classes = rng.integers(0, 3, number)
        truths.append(objects(boxes.tolist(), classes.tolist()))
        moved = boxes + rng.normal(0, 3, boxes.shape)
        extra = boxes + rng.uniform(-30, 30, (number, 1))
        both, labels = np.concatenate([moved, extra]), np.concatenate([classes, rng.integers(0, 3, number)])
        found.append(objects(both.tolist(), labels.tolist(), rng.uniform(0, 1, 2 * number).tolist()))
    annotations, results = [], []
    for image, (truth, detected) in enumerate(zip(truths, found, strict=True), 1):
        for box, label in zip(truth.boxes.tolist(), truth.classes.tolist(), strict=True):
            size = [box[2] - box[0], box[3] - box[1]]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": label + 1, "iscrowd": 0,
                 "bbox": [*box[:2], *size], "area": size[0] * size[1]}
            )  # fmt: skip
        assert detected.scores is not None
        for box, label, score in zip(
            detected.boxes.tolist(), detected.classes.tolist(), detected.scores.tolist(), strict=True
        ):
            results.append(
                {"image_id": image, "category_id": label + 1, "score": score,
                 "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]]}
            )  # fmt: skip
    document = {
        "images": [{"id": i + 1, "width": 200, "height": 200} for i in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(3)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = coco_eval.COCO(document)
        evaluation = coco_eval.COCOeval_faster(truth_set, truth_set.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([0.5, 0.75])
        evaluation.evaluate()
        evaluation.accumulate()
    # [threshold, recall, class, area, detections]
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1].mean(axis=1)
    for row, threshold in zip(precision, (0.5, 0.75), strict=True):
        ours = average_precision(found, truths, iou_threshold=threshold)
        np.testing.assert_allclose(list(ours.values()), row, atol=1e-4)
