"""When to answer: probabilities, thresholds of labels, and how many answers are wrong above a confidence.

Shapes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from xtorch.class_metrics import fit_temperature, softmax
from xtorch.metrics import Interval, wilson

LEVELS = (0.01, 0.02, 0.05, 0.1)
"""Shares of wrong answers that the report gives the operating point of."""
_CONFIDENCE = 0.95
_COVERAGES = 20
"""Shares of texts to answer that are tried: steps of 5 %."""


def probabilities(logits_NC: np.ndarray, temperature: float, *, multi_label: bool) -> np.ndarray:
    """float64 [N,C]: softmax over the labels, or the sigmoid of each."""
    scaled_NC = logits_NC.astype(np.float64) / temperature
    if not multi_label:
        return softmax(scaled_NC)
    sigmoid_NC: np.ndarray = 0.5 * (1 + np.tanh(0.5 * scaled_NC))
    return sigmoid_NC


def answers(probabilities_NC: np.ndarray, thresholds: Sequence[float], *, multi_label: bool) -> np.ndarray:
    """Labels that are given, 0 or 1, int64 [N,C]."""
    if multi_label:
        least_C = np.array(thresholds or [0.5] * probabilities_NC.shape[1])
        given_NC: np.ndarray = (probabilities_NC >= least_C).astype(np.int64)
        return given_NC
    return np.eye(probabilities_NC.shape[1], dtype=np.int64)[probabilities_NC.argmax(axis=1)]


def calibrate(logits_NC: np.ndarray, targets_NC: np.ndarray, *, multi_label: bool) -> float:
    """The temperature of least log loss on texts that the logits' model did not see.

    One text more is made up, as sure as the median one, with every label once: where all answers are right,
    the temperature would else be as low as it may be, and every answer certain.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2; the made-up text:
    Laplace's rule, as in Platt, "Probabilistic Outputs for Support Vector Machines" (1999), section 2.2.
    """
    if multi_label:
        # A label on its own is a choice between two classes with the logits 0 and z.
        logits_NC = np.stack([np.zeros(logits_NC.size), logits_NC.ravel()], axis=1)
        labels_N = targets_NC.ravel().astype(int)
    else:
        labels_N = targets_NC.argmax(axis=1)
    num_labels = logits_NC.shape[1]
    ordered_NC = np.sort(logits_NC, axis=1)
    margins_N = ordered_NC[:, -1] - ordered_NC[:, -2]
    median = int(np.argsort(margins_N, kind="stable")[len(margins_N) // 2])
    return fit_temperature(
        np.concatenate([labels_N, np.arange(num_labels)]),
        np.concatenate([logits_NC, np.repeat(logits_NC[[median]], num_labels, axis=0)]),
    )


def label_thresholds(probabilities_NC: np.ndarray, targets_NC: np.ndarray) -> tuple[float, ...]:
    """For each label the probability from which on it is given, with the highest F1; 0.5 of several equals.

    Source: Lipton, Elkan and Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure" (ECML
    2014), section 4.
    """
    thresholds = []
    for p_N, y_N in zip(probabilities_NC.T, targets_NC.T, strict=True):
        order = np.argsort(-p_N, kind="stable")
        hits = np.cumsum(y_N[order])
        scores = 2 * hits / (np.arange(1, len(p_N) + 1) + y_N.sum())
        # Between texts of one probability nothing can be cut.
        ends = np.append(p_N[order][1:] < p_N[order][:-1], True)
        scores = np.where(ends, scores, -1.0)
        best = int(scores.argmax())
        at_half = p_N >= 0.5
        f1_half = 2 * y_N[at_half].sum() / max(1, at_half.sum() + y_N.sum())
        if y_N.sum() == 0 or f1_half >= scores[best] - 1e-12:
            thresholds.append(0.5)
            continue
        below = p_N[order][best + 1] if best + 1 < len(p_N) else 0.0
        thresholds.append(float((p_N[order][best] + below) / 2))
    return tuple(thresholds)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """From which confidence on to answer.

    Attributes:
        threshold: Of the best label's probability; 0: always.
        coverage: Share of texts that are answered, on the texts that it was chosen by.
        wrong: Share of wrong answers there, with Wilson's 95 % interval.
        guaranteed: Whether even the upper 95 % bound of that share is at most what was asked for.
    """

    max_wrong: float
    threshold: float
    coverage: float
    wrong: Interval
    guaranteed: bool


def upper_bound(wrong: int, total: int, confidence: float = _CONFIDENCE) -> float:
    """The largest share of wrong answers that `wrong` of `total` speak for, one-sided.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits" (Biometrika 1934).
    """
    return 1.0 if wrong >= total else float(beta.ppf(confidence, wrong + 1, total - wrong))


def operating_point(confidence_N: np.ndarray, right_N: np.ndarray, max_wrong: float) -> OperatingPoint:
    """The lowest confidence above which at most a share of the answers is wrong.

    Shares of the texts from 5 % to all are tried; with 95 % confidence none that is found safe is not. Where
    none is safe, the lowest confidence at which the share itself is small enough is taken, else the highest
    that any text reaches.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks" (NeurIPS 2017), section
    3: the confidence is divided among the thresholds that are compared (Bonferroni).

    Args:
        confidence_N: Probability of the best label, of texts that were not learned from.
        right_N: Whether it is the right one.
    """
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N = confidence_N[order]
    wrong_N = np.cumsum(~right_N[order])
    # Between texts of one confidence nothing can be cut.
    ends = np.flatnonzero(np.append(sorted_N[1:] < sorted_N[:-1], True))
    wanted = np.ceil(np.arange(1, _COVERAGES + 1) * len(order) / _COVERAGES).astype(int) - 1
    tried = {int(ends[np.searchsorted(ends, index)]) for index in wanted}
    strict = 1 - (1 - _CONFIDENCE) / len(tried)
    safe = [i for i in tried if upper_bound(int(wrong_N[i]), i + 1, strict) <= max_wrong]
    likely = [int(i) for i in ends if wrong_N[i] <= max_wrong * (i + 1)]
    last = max(safe) if safe else max(likely) if likely else int(ends[0])
    everything = last == len(order) - 1
    return OperatingPoint(
        max_wrong=max_wrong,
        threshold=0.0 if everything else float((sorted_N[last] + sorted_N[last + 1]) / 2),
        coverage=(last + 1) / len(order),
        wrong=wilson(int(wrong_N[last]), last + 1),
        guaranteed=bool(safe),
    )
