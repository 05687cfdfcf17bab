"""Metrics of classifiers that give probabilities, with 95 % intervals.

Shapes: N samples, C classes, B bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from xtorch.metrics import Interval, wilson

_RESAMPLES = 500
_SMALLEST = 1e-12


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Probabilities float64 [N,C]."""
    shifted = np.exp(logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True))
    probabilities_NC: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities_NC


def log_loss(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> float:
    """Mean negative log-likelihood, in nats."""
    given = probabilities_NC[np.arange(len(labels_N)), labels_N]
    return float(-np.log(np.maximum(given, _SMALLEST)).mean())


def fit_temperature(labels_N: np.ndarray, logits_NC: np.ndarray) -> float:
    """What to divide logits by, in 0.05..20, so that they are probabilities.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2.
    """
    found = minimize_scalar(
        lambda log_t: log_loss(labels_N, softmax(logits_NC / np.exp(log_t))),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def confusion_matrix(labels_N: np.ndarray, answers_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 [C,C]; rows are the truth."""
    flat = np.bincount(labels_N * num_classes + answers_N, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def f1_by_class(matrix_CC: np.ndarray) -> np.ndarray:
    """F1 of each class, float64 [C]; 0 where it neither is nor was said."""
    hits = np.diag(matrix_CC)
    total = matrix_CC.sum(axis=0) + matrix_CC.sum(axis=1)
    return np.divide(2 * hits, total, out=np.zeros(len(hits)), where=total > 0)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often answers of a confidence are right.

    Attributes:
        edges: Of the bins, B+1 numbers.
        counts: Answers in each.
        confidence, accuracy: Means of each; NaN where it is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of accuracy and confidence, by count."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gaps * self.counts[filled]).sum() / self.counts.sum())


def reliability(labels_N: np.ndarray, probabilities_NC: np.ndarray, *, bins: int = 10) -> Reliability:
    """
    Source: Guo et al. (ICML 2017), section 2, equations 2 and 3: bins of equal width.
    """
    confidence_N = probabilities_NC.max(axis=1)
    right_N = probabilities_NC.argmax(axis=1) == labels_N
    edges = np.linspace(0, 1, bins + 1)
    place_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place_N, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=edges,
            counts=counts,
            confidence=np.bincount(place_N, confidence_N, minlength=bins) / counts,
            accuracy=np.bincount(place_N, right_N, minlength=bins) / counts,
        )


def bootstrap(
    measure: Callable[[np.ndarray], float], num: int, *, seed: int, resamples: int = _RESAMPLES
) -> Interval:
    """A figure of samples with its percentile bootstrap interval.

    Args:
        measure: From indices of samples to the figure.
        num: Of samples.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    rng = np.random.default_rng(seed)
    value = measure(np.arange(num))
    values = [measure(rng.integers(0, num, num)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    # The bootstrap of a biased figure, such as a calibration error, may leave the figure itself outside.
    return Interval(value, min(value, float(low)), max(value, float(high)))


def class_metrics(
    labels_N: np.ndarray, probabilities_NC: np.ndarray, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """`Report.metrics`: top1, with five and more classes top3, macro F1, log loss and calibration error."""
    num, num_classes = probabilities_NC.shape
    answers_N = probabilities_NC.argmax(axis=1)
    present = np.unique(labels_N)

    def macro_f1(picks: np.ndarray) -> float:
        matrix = confusion_matrix(labels_N[picks], answers_N[picks], num_classes)
        return float(f1_by_class(matrix)[present].mean())

    found = {"top1": wilson(int((answers_N == labels_N).sum()), num)}
    if num_classes >= 5:
        best_N3 = np.argsort(-probabilities_NC, axis=1)[:, :3]
        found["top3"] = wilson(int((best_N3 == labels_N[:, None]).any(axis=1).sum()), num)
    found["macro_f1"] = bootstrap(macro_f1, num, seed=seed)
    found["log_loss"] = bootstrap(lambda i: log_loss(labels_N[i], probabilities_NC[i]), num, seed=seed)
    found["calibration_error"] = bootstrap(
        lambda i: reliability(labels_N[i], probabilities_NC[i]).error, num, seed=seed
    )
    return {name: interval.to_dict() for name, interval in found.items()}


def suspicious_labels(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """Indices of samples whose label is likely wrong, the most suspicious first.

    A label is suspicious where another class is at least as likely as it is on average for samples that carry
    its label.

    Args:
        labels_N: Given labels.
        probabilities_NC: Of models that did not see the sample (out-of-fold).

    Source: Northcutt, Jiang and Chuang, "Confident Learning" (JAIR 2021), section 3.1: the off-diagonal of
    the confident joint, ordered by self-confidence (section 3.3).
    """
    num, num_classes = probabilities_NC.shape
    usual_C = np.array(
        [
            probabilities_NC[labels_N == label, label].mean() if (labels_N == label).any() else np.inf
            for label in range(num_classes)
        ]
    )
    confident_NC = np.where(probabilities_NC >= usual_C, probabilities_NC, -1.0)
    best_N = confident_NC.argmax(axis=1)
    picked = np.flatnonzero((confident_NC.max(axis=1) >= 0) & (best_N != labels_N))
    own_N = probabilities_NC[np.arange(num), labels_N]
    return picked[np.argsort(own_N[picked], kind="stable")]
