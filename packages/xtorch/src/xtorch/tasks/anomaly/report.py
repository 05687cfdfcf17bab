"""What the training report shows of an anomaly detector: figures, curves and tables (ARCHITECTURE.md, 10.6).

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xtorch.data.check import UsableImage
from xtorch.data.layout import LABELS
from xtorch.metrics import auroc, auroc_interval, confusion, f1_interval, roc, wilson
from xtorch.picks import evenly
from xtorch.tasks.report import Chart, Mark, Series, Table

_BINS = 30
_MAX_CURVE_POINTS = 400


def has_both(labels_N: np.ndarray) -> bool:
    """Whether there are good and defective images among them."""
    return bool((labels_N == 0).any() and (labels_N == 1).any())


def metrics_with_intervals(
    labels_N: np.ndarray, scores_N: np.ndarray, threshold: float, *, seed: int
) -> dict[str, dict[str, float]]:
    """`Report.metrics`: fractions with 95 % intervals (bootstrap for AUROC and F1, else Wilson).

    Without defective images there is only the false alarm rate: nothing else can be measured.
    """
    tn, fp, fn, tp = confusion(labels_N, scores_N, threshold)
    false_alarms = {"false_alarm_rate": wilson(fp, fp + tn).to_dict()}
    if not has_both(labels_N):
        return false_alarms
    return {
        "image_auroc": auroc_interval(labels_N, scores_N, seed=seed).to_dict(),
        "f1": f1_interval(labels_N, scores_N, threshold, seed=seed).to_dict(),
        "precision": wilson(tp, tp + fp).to_dict(),
        "recall": wilson(tp, tp + fn).to_dict(),
        **false_alarms,
        "miss_rate": wilson(fn, fn + tp).to_dict(),
    }


def cost_on_test(labels_N: np.ndarray, scores_N: np.ndarray, threshold: float) -> dict[str, Any]:
    """What a threshold costs on the test part, for `Report.operating_point`, with Wilson's 95 % intervals."""
    tn, fp, fn, tp = confusion(labels_N, scores_N, threshold)
    alarms = wilson(fp, fp + tn).to_dict()
    figures: dict[str, Any] = {
        "test_false_alarm_rate": alarms,
        "test_false_rejects_per_thousand": {name: 1000 * value for name, value in alarms.items()},
    }
    if fn + tp:
        figures["test_miss_rate"] = wilson(fn, fn + tp).to_dict()
    return figures


def confusion_matrix(labels_N: np.ndarray, scores_N: np.ndarray, threshold: float) -> dict[str, Any]:
    """`Report.confusion`."""
    tn, fp, fn, tp = confusion(labels_N, scores_N, threshold)
    return {"labels": list(LABELS), "matrix": [[tn, fp], [fn, tp]]}


def roc_chart(labels_N: np.ndarray, scores_N: np.ndarray, threshold: float) -> Chart:
    """Share of defects found against share of false alarms; corner points, thinned for drawing."""
    curve = roc(labels_N, scores_N)
    tn, fp, _, _ = confusion(labels_N, scores_N, threshold)
    return Chart(
        id="roc",
        title="ROC curve",
        kind="lines",
        x_title="False alarms, share of good images",
        y_title="Defective images found, share",
        x=evenly(curve["fpr"], _MAX_CURVE_POINTS),
        series=[Series(name="test part", y=evenly(curve["tpr"], _MAX_CURVE_POINTS))],
        marks=[Mark(x=fp / (fp + tn), name="operating point")],
        note=f"The area below is the AUROC: {auroc(labels_N, scores_N):.3f}.",
    )


def histogram_chart(labels_N: np.ndarray, scores_N: np.ndarray, threshold: float) -> Chart:
    """Scores of the test images by label, over common bins."""
    edges = np.histogram_bin_edges(scores_N, bins=_BINS)
    return Chart(
        id="scores",
        title="Scores of the test images",
        kind="histogram",
        x_title="Score",
        y_title="Images",
        x=edges.astype(float).tolist(),
        series=[
            Series(
                name=name, y=np.histogram(scores_N[labels_N == label], bins=edges)[0].astype(float).tolist()
            )
            for label, name in enumerate(LABELS)
            if (labels_N == label).any()
        ],
        marks=[Mark(x=threshold, name="threshold")],
        note="From the threshold on an image counts as defective.",
    )


def kinds_table(images: Sequence[UsableImage], scores_N: np.ndarray, threshold: float) -> Table | None:
    """How well each kind of defect is found; None where the folders tell no kinds."""
    labels_N = np.array([image.label for image in images])
    kinds = sorted({image.kind for image in images if image.label == 1 and image.kind})
    good_N = scores_N[labels_N == 0]
    if not kinds or not len(good_N):
        return None
    rows: list[list[str | int | float | None]] = []
    for kind in kinds:
        of_kind = scores_N[[image.kind == kind and image.label == 1 for image in images]]
        found = int((of_kind >= threshold).sum())
        share = wilson(found, len(of_kind))
        truth = np.repeat([0, 1], [len(good_N), len(of_kind)])
        rows.append(
            [
                kind,
                len(of_kind),
                found,
                share.value,
                f"{share.low:.2f} to {share.high:.2f}",
                auroc(truth, np.concatenate([good_N, of_kind])),
            ]
        )
    return Table(
        id="kinds",
        title="Kinds of defect",
        columns=["Kind", "Test images", "Found", "Share found", "95 % interval", "AUROC against good"],
        rows=sorted(rows, key=lambda row: (row[5], row[0])),
        note="The kinds that are hardest to find come first.",
    )


def held_out(images: Sequence[UsableImage], scores_N: np.ndarray) -> list[dict[str, Any]]:
    """`Report.held_out`: every test image with its score."""
    return [
        {"path": image.path, "label": image.label, "score": float(score)}
        for image, score in zip(images, scores_N, strict=True)
    ]
