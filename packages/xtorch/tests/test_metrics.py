from __future__ import annotations

import numpy as np
import pytest

from xtorch import metrics


def test_auroc_counts_pairs() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert metrics.auroc(labels, scores) == 0.75


def test_auroc_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = 0.76025  # of N(0,1) against N(1,1): Phi(1 / sqrt 2)
    hits = 0
    for seed in range(100):
        labels = np.repeat([0, 1], 60)
        scores = rng.normal(size=120) + labels
        interval = metrics.auroc_interval(labels, scores, seed=seed, resamples=300)
        assert interval.low <= interval.value <= interval.high
        hits += interval.low <= truth <= interval.high
    assert hits >= 87


def test_wilson_equals_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81/263 and 0/20.
    interval = metrics.wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    interval = metrics.wilson(0, 20)
    assert (interval.low, round(interval.high, 4)) == (0.0, 0.1611)
    assert metrics.wilson(0, 0).to_dict() == {"value": 0.0, "low": 0.0, "high": 1.0}


def test_best_f1_threshold_lies_in_the_gap_when_classes_are_apart() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert metrics.best_f1_threshold(labels, scores) == pytest.approx(0.5)


def test_best_f1_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = rng.normal(size=60) + labels

    def f1(threshold: float) -> float:
        _, fp, fn, tp = metrics.confusion(labels, scores, threshold)
        return metrics.f1(tp, fp, fn)

    assert f1(metrics.best_f1_threshold(labels, scores)) == max(f1(t) for t in scores)


def test_confusion_calls_a_score_at_the_threshold_defective() -> None:
    assert metrics.confusion(np.array([0, 1]), np.array([0.5, 0.5]), 0.5) == (0, 1, 0, 1)


def test_roc_is_finite_and_runs_from_corner_to_corner() -> None:
    curve = metrics.roc(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.6, 0.4], dtype=np.float32))
    assert np.isfinite(curve["thresholds"]).all()
    assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
