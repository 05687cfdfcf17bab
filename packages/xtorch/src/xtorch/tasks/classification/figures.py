"""Charts and tables of the report: where the classifier errs, and how far its confidence can be trusted.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xtorch.class_metrics import confusion_matrix, f1_by_class, reliability
from xtorch.metrics import wilson
from xtorch.picks import evenly
from xtorch.tasks.report import Chart, Mark, Series, Table

_MAX_POINTS = 200
_MAX_PAIRS = 12


def confusion(labels: Sequence[str], truth_N: np.ndarray, answers_N: np.ndarray) -> dict[str, Any]:
    """`Report.confusion`."""
    return {"labels": list(labels), "matrix": confusion_matrix(truth_N, answers_N, len(labels)).tolist()}


def class_table(labels: Sequence[str], truth_N: np.ndarray, answers_N: np.ndarray) -> Table:
    """Recall, its interval, precision and F1 of each class, the worst first."""
    matrix = confusion_matrix(truth_N, answers_N, len(labels))
    f1_C = f1_by_class(matrix)
    rows: list[list[str | int | float | None]] = []
    for number in np.argsort(f1_C, kind="stable"):
        hits, given, said = (
            int(matrix[number, number]),
            int(matrix[number].sum()),
            int(matrix[:, number].sum()),
        )
        recall = wilson(hits, given)
        span = f"{recall.low:.2f} to {recall.high:.2f}" if given else None
        rows.append(
            [
                labels[number],
                given,
                recall.value if given else None,
                span,
                hits / said if said else None,
                float(f1_C[number]) if given else None,
            ]
        )
    return Table(
        id="classes",
        title="Classes, the hardest first",
        columns=["class", "test images", "recall", "95 % interval", "precision", "F1"],
        rows=rows,
    )


def confused_table(labels: Sequence[str], truth_N: np.ndarray, answers_N: np.ndarray) -> Table | None:
    """The pairs of classes that are taken for each other most; None where there are none."""
    matrix = confusion_matrix(truth_N, answers_N, len(labels))
    np.fill_diagonal(matrix, 0)
    both = matrix + matrix.T
    pairs = [
        (int(both[a, b]), a, b) for a in range(len(labels)) for b in range(a + 1, len(labels)) if both[a, b]
    ]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    return Table(
        id="confused",
        title="Taken for each other",
        columns=["class", "class", "mistakes"],
        rows=[[labels[a], labels[b], num] for num, a, b in pairs[:_MAX_PAIRS]],
    )


def reliability_chart(truth_N: np.ndarray, probabilities_NC: np.ndarray) -> Chart:
    """How often answers are right, by their confidence; bins without answers are left out."""
    found = reliability(truth_N, probabilities_NC)
    filled = found.counts > 0
    intervals = [
        wilson(round(accuracy * count), int(count))
        for accuracy, count in zip(found.accuracy[filled], found.counts[filled], strict=True)
    ]
    # The ends hold the line of perfect calibration.
    x = [0.0, *found.confidence[filled].tolist(), 1.0]

    def measured(part: str) -> list[float | None]:
        return [None, *(getattr(each, part) for each in intervals), None]

    return Chart(
        id="reliability",
        title="Can its confidence be trusted?",
        kind="lines",
        x_title="confidence of the answer",
        y_title="share of right answers",
        x=x,
        series=[
            Series(
                name="test images",
                y=measured("value"),
                low=measured("low"),
                high=measured("high"),
            ),
            Series(name="perfectly calibrated", y=x),
        ],
        note=f"On average the two differ by {found.error:.1%} (expected calibration error).",
    )


def review_chart(confidence_N: np.ndarray, right_N: np.ndarray, threshold: float) -> Chart:
    """What share of answers is right if only the most confident ones are given.

    Source: the risk-coverage curve of El-Yaniv and Wiener, "On the Foundations of Noise-free Selective
    Classification" (JMLR 2010), section 2.
    """
    order = np.argsort(-confidence_N, kind="stable")
    accuracy = np.cumsum(right_N[order]) / np.arange(1, len(order) + 1)
    coverage = np.arange(1, len(order) + 1) / len(order)
    given = float((confidence_N >= threshold).mean())
    return Chart(
        id="review",
        title="Answers without review",
        kind="lines",
        x_title="share of images that are answered without review",
        y_title="share of these answers that are right",
        x=evenly(coverage.tolist(), _MAX_POINTS),
        series=[Series(name="test images", y=evenly(accuracy.tolist(), _MAX_POINTS))],
        marks=[Mark(x=given, name="operating point")],
        note="The least confident answers go to a person first.",
    )
