"""Numbers of a classifier as probabilities and as the best classes.

Legend: C classes; leading axes are kept.
"""

from __future__ import annotations

import numpy as np

from xinfer.errors import InputError


def softmax(logits_C: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Probabilities that sum to one over the last axis.

    Args:
        logits_C: Any real numbers, [..., C].
        temperature: Divides the logits; over 1 makes the probabilities more alike.

    Returns:
        float32, of the same shape.

    Raises:
        InputError: There are no classes, or the temperature is not positive.

    Source: temperature as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    logits_C = np.asarray(logits_C, np.float32)
    if not logits_C.ndim or not logits_C.shape[-1]:
        raise InputError(f"logits must be [...,C], not {list(logits_C.shape)}", value=list(logits_C.shape))
    if not temperature > 0:
        raise InputError(f"temperature must be positive, not {temperature}", value=temperature)
    # Less the largest, exp neither overflows nor loses what matters.
    result_C = np.exp((logits_C - logits_C.max(axis=-1, keepdims=True)) / np.float32(temperature))
    result_C /= result_C.sum(axis=-1, keepdims=True)
    return np.asarray(result_C, np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of independent labels: 1 / (1 + exp(-x)), float32, without overflow."""
    logits = np.asarray(logits, np.float32)
    shrunk = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, np.float32(1), shrunk) / (1 + shrunk), np.float32)


def top_k(scores_C: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best classes, best first; of equal ones the first.

    Args:
        scores_C: [..., C].
        k: How many; all when there are fewer.

    Returns:
        Class numbers int64 [..., k] and their scores.

    Raises:
        InputError: k is not positive, or there are no classes.
    """
    scores_C = np.asarray(scores_C)
    if k < 1 or not scores_C.ndim or not scores_C.shape[-1]:
        raise InputError(f"cannot take the best {k} of {list(scores_C.shape)}", value=k)
    # A stable sort of the negated scores puts the first of equal ones first.
    order = np.argsort(-scores_C.astype(np.float64), axis=-1, kind="stable")[..., :k]
    return order.astype(np.int64, copy=False), np.take_along_axis(scores_C, order, axis=-1)
