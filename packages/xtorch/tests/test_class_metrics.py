"""Metrics of classifiers against values worked out by hand and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from xtorch.class_metrics import (
    bootstrap,
    class_metrics,
    confusion_matrix,
    f1_by_class,
    fit_temperature,
    log_loss,
    reliability,
    softmax,
    suspicious_labels,
)
from xtorch.tasks.classification.operating_point import choose


def drawn(num: int, num_classes: int, *, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the probabilities that logits stand for, and these logits times `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (num, num_classes))
    labels = np.array([rng.choice(num_classes, p=row) for row in softmax(logits)])
    return labels, logits * scale


def test_figures_agree_with_scikit_learn() -> None:
    labels, logits = drawn(300, 4, scale=1.0)
    probabilities = softmax(logits)
    answers = probabilities.argmax(axis=1)
    assert log_loss(labels, probabilities) == pytest.approx(reference.log_loss(labels, probabilities))
    matrix = confusion_matrix(labels, answers, 4)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(labels, answers))
    np.testing.assert_allclose(f1_by_class(matrix), reference.f1_score(labels, answers, average=None))
    found = class_metrics(labels, probabilities)
    assert found["top1"]["value"] == pytest.approx(reference.accuracy_score(labels, answers))
    assert found["macro_f1"]["value"] == pytest.approx(reference.f1_score(labels, answers, average="macro"))
    assert set(found) == {"top1", "macro_f1", "log_loss", "calibration_error"}
    for interval in found.values():
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert interval["low"] < interval["high"]


def test_top3_appears_from_five_classes_on() -> None:
    labels, logits = drawn(200, 6, scale=1.0)
    found = class_metrics(labels, softmax(logits))
    expected = reference.top_k_accuracy_score(labels, softmax(logits), k=3, labels=range(6))
    assert found["top3"]["value"] == pytest.approx(expected)


def test_classes_without_samples_do_not_count() -> None:
    labels, probabilities = np.array([0, 0, 1]), np.eye(4)[[0, 0, 1]]
    found = class_metrics(labels, probabilities)
    assert found["macro_f1"]["value"] == 1.0
    assert np.isfinite([value for interval in found.values() for value in interval.values()]).all()


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_temperature_restores_the_probabilities(scale: float) -> None:
    labels, logits = drawn(4000, 3, scale=scale)
    assert fit_temperature(labels, logits) == pytest.approx(scale, rel=0.1)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    # 10 answers with 0.95, of which 6 are right; 10 with 0.65, of which 7 are right.
    probabilities = np.array([[0.95, 0.05]] * 10 + [[0.65, 0.35]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 7 + [1] * 3)
    found = reliability(labels, probabilities)
    assert found.error == pytest.approx((0.35 + 0.05) / 2)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 0, 10, 0, 0, 10]
    assert found.accuracy[9] == pytest.approx(0.6)
    calibrated, logits = drawn(20_000, 3, scale=1.0)
    assert reliability(calibrated, softmax(logits)).error < 0.02
    assert reliability(calibrated, softmax(3 * logits)).error > 0.1


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        values = rng.normal(1.0, 1.0, 60)
        interval = bootstrap(lambda picks, values=values: float(values[picks].mean()), 60, seed=seed)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_wrong_labels_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    probabilities = softmax(4 * np.eye(3)[truth] + rng.normal(0, 0.5, (300, 3)))
    given = truth.copy()
    wrong = rng.choice(300, 15, replace=False)
    given[wrong] = (given[wrong] + 1) % 3
    found = suspicious_labels(given, probabilities)
    # Those whose other class is no likelier than usual stay hidden: the rule is cautious.
    assert set(found) <= set(wrong)
    assert len(found) >= 12
    own = probabilities[found, given[found]]
    assert (np.diff(own) >= 0).all()
    assert len(suspicious_labels(truth, probabilities)) == 0


def test_review_threshold_is_that_of_chow_when_probabilities_are_true() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1.0, 20_000)
    right = rng.uniform(size=20_000) < confidence
    point = choose(confidence, right, review_cost=0.2, seed=0)
    assert point.threshold == pytest.approx(0.8, abs=0.05)
    assert point.low <= point.threshold <= point.high
    shown = point.to_dict(confidence, right)
    assert shown["cost_per_image"] < min(shown["cost_per_image_without_reviews"], 0.2)
    assert shown["review_share"]["value"] == pytest.approx((confidence < point.threshold).mean())


@pytest.mark.parametrize(("right", "threshold"), [(True, 0.0), (False, 1.0)])
def test_review_threshold_answers_all_or_nothing_when_all_is_right_or_wrong(
    right: bool, threshold: float
) -> None:
    confidence = np.linspace(0.5, 0.9, 30)
    point = choose(confidence, np.full(30, right), review_cost=0.2, seed=0)
    assert point.threshold == threshold
    assert point.to_dict(confidence, np.full(30, right))["review_share"]["value"] == 1 - right


def test_review_threshold_does_not_cut_equal_confidences() -> None:
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    right = np.array([True] * 10 + [True, False] * 5)
    point = choose(confidence, right, review_cost=0.2, seed=0)
    assert 0.6 < point.threshold < 0.9
