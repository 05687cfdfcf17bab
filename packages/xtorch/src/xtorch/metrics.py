"""Metrics of binary decisions by a score, with 95 % intervals.

Shapes: N images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def auroc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a defective image scores higher than a good one.

    Args:
        labels_N: 0 or 1, both present.
        scores_N: higher means "1".

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve" (Radiology 1982).
    """
    return float(roc_auc_score(labels_N, scores_N))


def auroc_interval(
    labels_N: np.ndarray, scores_N: np.ndarray, *, seed: int = 0, resamples: int = 1000
) -> Interval:
    """AUROC with a stratified percentile bootstrap interval.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    rng = np.random.default_rng(seed)
    negatives, positives = scores_N[labels_N == 0], scores_N[labels_N == 1]
    # AUROC is the mean of a matrix of comparisons, so a resample is a choice of its rows and columns.
    wins = (positives[:, None] > negatives[None, :]) + 0.5 * (positives[:, None] == negatives[None, :])
    row_counts = rng.multinomial(len(positives), np.full(len(positives), 1 / len(positives)), size=resamples)
    column_counts = rng.multinomial(
        len(negatives), np.full(len(negatives), 1 / len(negatives)), size=resamples
    )
    values = ((row_counts @ wins) * column_counts).sum(axis=1) / (len(positives) * len(negatives))
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(auroc(labels_N, scores_N), float(low), float(high))


def wilson(successes: int, total: int) -> Interval:
    """A rate with Wilson's score interval; of no trials, 0 in 0..1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).
    """
    if total == 0:
        return Interval(0.0, 0.0, 1.0)
    rate = successes / total
    spread = 1 + _Z_95**2 / total
    centre = (rate + _Z_95**2 / (2 * total)) / spread
    half = _Z_95 / spread * math.sqrt(rate * (1 - rate) / total + _Z_95**2 / (4 * total**2))
    # Rounding may leave a rate of 0 or 1 just outside.
    return Interval(rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))


def confusion(labels_N: np.ndarray, scores_N: np.ndarray, threshold: float) -> tuple[int, int, int, int]:
    """(tn, fp, fn, tp) of the rule ``score >= threshold`` -> 1."""
    predicted = scores_N >= threshold
    actual = labels_N == 1
    return (
        int((~predicted & ~actual).sum()),
        int((predicted & ~actual).sum()),
        int((~predicted & actual).sum()),
        int((predicted & actual).sum()),
    )


def f1(tp: int, fp: int, fn: int) -> float:
    """Harmonic mean of precision and recall; 0 where nothing was found."""
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def f1_interval(
    labels_N: np.ndarray, scores_N: np.ndarray, threshold: float, *, seed: int = 0, resamples: int = 1000
) -> Interval:
    """F1 at a threshold with a stratified percentile bootstrap interval."""
    tn, fp, fn, tp = confusion(labels_N, scores_N, threshold)
    rng = np.random.default_rng(seed)
    positives, negatives = tp + fn, tn + fp
    tps = rng.binomial(positives, tp / positives, size=resamples) if positives else np.zeros(resamples)
    fps = rng.binomial(negatives, fp / negatives, size=resamples) if negatives else np.zeros(resamples)
    values = 2 * tps / np.maximum(tps + fps + positives, 1)
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(f1(tp, fp, fn), float(low), float(high))


def best_f1_threshold(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """The threshold with the highest F1; of several, the one in the middle of the widest gap.

    Args:
        labels_N: 0 or 1, both present.
        scores_N: finite.
    """
    values = np.unique(scores_N)
    candidates = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])
    gaps = np.concatenate([[0.0], np.diff(values)])
    best: tuple[float, float, float] | None = None
    for threshold, gap in zip(candidates, gaps, strict=True):
        _, fp, fn, tp = confusion(labels_N, scores_N, float(threshold))
        entry = (round(f1(tp, fp, fn), 12), float(gap), float(threshold))
        if best is None or entry > best:
            best = entry
    assert best is not None
    return best[2]


def roc(labels_N: np.ndarray, scores_N: np.ndarray) -> dict[str, list[float]]:
    """Corner points of the ROC curve, JSON-ready; the first threshold is the highest score."""
    fpr, tpr, thresholds = roc_curve(labels_N, scores_N)
    thresholds[0] = np.nextafter(scores_N.max(), np.inf)  # scikit-learn gives infinity, JSON has none
    return {"fpr": fpr.tolist(), "tpr": tpr.tolist(), "thresholds": thresholds.tolist()}
