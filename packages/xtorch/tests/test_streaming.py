from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from xtorch import SettingsError
from xtorch.streaming import (
    AUROC,
    F1,
    Accuracy,
    MeanAbsoluteError,
    MeanIoU,
    RootMeanSquaredError,
    StreamingMetric,
)

rng = np.random.default_rng(0)
SCORES_NK = rng.normal(size=(90, 4))
CLASSES_N = rng.integers(0, 3, 90)  # class 3 is never there
PREDICTED_N = SCORES_NK.argmax(axis=1)
LABELS_N = rng.integers(0, 2, 90)
VALUES_N = rng.normal(size=90)

TRUE_N = SCORES_NK[:, 0]
TOP_2 = sk.top_k_accuracy_score(CLASSES_N, SCORES_NK, k=2, labels=range(4))
IOU = sk.jaccard_score(CLASSES_N, PREDICTED_N, average="macro")
WEIGHTED = sk.f1_score(CLASSES_N, PREDICTED_N, average="weighted")

CASES: list[Any] = [
    (Accuracy, {}, SCORES_NK, CLASSES_N, sk.accuracy_score(CLASSES_N, PREDICTED_N)),
    (Accuracy, {"top_k": 2}, SCORES_NK, CLASSES_N, TOP_2),
    (F1, {"num_classes": 4}, SCORES_NK, CLASSES_N, sk.f1_score(CLASSES_N, PREDICTED_N, average="macro")),
    (F1, {"num_classes": 4, "average": "weighted"}, SCORES_NK, CLASSES_N, WEIGHTED),
    (MeanIoU, {"num_classes": 4}, SCORES_NK, CLASSES_N, IOU),
    (AUROC, {}, VALUES_N, LABELS_N, sk.roc_auc_score(LABELS_N, VALUES_N)),
    (MeanAbsoluteError, {}, VALUES_N, TRUE_N, sk.mean_absolute_error(TRUE_N, VALUES_N)),
    (RootMeanSquaredError, {}, VALUES_N, TRUE_N, sk.root_mean_squared_error(TRUE_N, VALUES_N)),
]


@pytest.mark.parametrize(("kind", "settings", "predictions", "targets", "expected"), CASES)
def test_metric_is_scikit_learns_however_it_is_cut(
    kind: type[StreamingMetric],
    settings: dict[str, int],
    predictions: np.ndarray,
    targets: np.ndarray,
    expected: float,
) -> None:
    metric, elsewhere = kind(**settings), kind(**settings)
    assert np.isnan(metric.compute())
    for start in range(0, 90, 7):
        which = metric if start % 2 else elsewhere
        which.update(predictions[start : start + 7], targets[start : start + 7])
    assert metric.compute() != pytest.approx(expected, rel=1e-9)  # has seen half
    metric.add(elsewhere.state())
    assert metric.compute() == pytest.approx(expected, rel=1e-9)
    metric.reset()
    assert np.isnan(metric.compute())
    metric.update(predictions, targets)
    assert metric.compute() == pytest.approx(expected, rel=1e-9)


def test_pixels_without_a_label_do_not_count() -> None:
    scores = np.zeros((1, 2, 2, 2))
    scores[:, 1] = 1
    metric = MeanIoU(2)
    metric.update(scores, np.array([[[1, 1], [255, 255]]]))
    assert metric.compute() == 1
    metric.update(scores, np.array([[[0, 1], [255, 255]]]))
    assert metric.compute() == pytest.approx((3 / 4 + 0) / 2)


def test_accuracy_of_pixels() -> None:
    scores = np.zeros((1, 3, 2, 2))
    scores[:, 2] = 1
    targets = np.array([[[2, 2], [2, 0]]])
    for top_k, expected in ((1, 0.75), (3, 1.0)):
        metric = Accuracy(top_k=top_k)
        metric.update(scores, targets)
        assert metric.compute() == expected


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError):
        Accuracy(top_k=0)
    with pytest.raises(SettingsError):
        F1(3, average="micro")  # type: ignore[arg-type]


def test_streaming_metrics_import_no_torch() -> None:
    code = "import sys, xtorch.streaming; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
