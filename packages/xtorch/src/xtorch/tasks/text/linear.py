"""Linear classifiers on features of texts.

Shapes: N texts, D features, C labels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

_NEVER = -12.0
"""Logit of a label that no text to learn from has."""


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """Logits of texts are ``features @ weight.T + bias``: float64 [C,D] and [C]."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features_ND: Any) -> np.ndarray:
        """float64 [N,C]; features may be sparse."""
        scores_NC: np.ndarray = np.asarray(features_ND @ self.weight.T) + self.bias
        return scores_NC


def fit_linear(
    features_ND: Any,
    targets_NC: np.ndarray,
    *,
    multi_label: bool,
    strength: float,
) -> LinearHead:
    """Logistic regression: softmax over the labels, or each label on its own.

    Args:
        features_ND: Dense or sparse.
        targets_NC: 0 or 1; exactly one 1 a row unless `multi_label`.
        strength: Inverse of the L2 penalty (scikit-learn's ``C``).

    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning" (2nd ed.), section 4.4.
    """
    num_labels, num_features = targets_NC.shape[1], features_ND.shape[1]
    weight_CD, bias_C = np.zeros((num_labels, num_features)), np.full(num_labels, _NEVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if multi_label:
            for label in range(num_labels):
                column_N = targets_NC[:, label].astype(int)
                if 0 < column_N.sum() < len(column_N):
                    model = _regression(strength).fit(features_ND, column_N)
                    weight_CD[label], bias_C[label] = model.coef_[0], model.intercept_[0]
                elif column_N.sum():
                    bias_C[label] = -_NEVER
            return LinearHead(weight=weight_CD, bias=bias_C)
        labels_N = targets_NC.argmax(axis=1)
        present = np.unique(labels_N)
        if len(present) == 1:
            bias_C[present] = 0.0
            return LinearHead(weight=weight_CD, bias=bias_C)
        model = _regression(strength).fit(features_ND, labels_N)
    if len(present) == 2:
        # One row speaks for the second class; half of it for and half against give the same softmax.
        weight_CD[present] = np.stack([-model.coef_[0] / 2, model.coef_[0] / 2])
        bias_C[present] = np.array([-model.intercept_[0] / 2, model.intercept_[0] / 2])
    else:
        weight_CD[present], bias_C[present] = model.coef_, model.intercept_
    return LinearHead(weight=weight_CD, bias=bias_C)


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=500)
