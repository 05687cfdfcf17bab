"""What the training report shows of a text classifier: figures, curves and tables (ARCHITECTURE.md, 10.6).

Shapes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score

from xtorch.class_metrics import (
    bootstrap,
    class_metrics,
    confusion_matrix,
    reliability,
    suspicious_labels,
)
from xtorch.data.texts import UsableText, shortened
from xtorch.metrics import wilson
from xtorch.tasks.report import Chart, Series, Table
from xtorch.tasks.text.operating import LEVELS, OperatingPoint, operating_point

_BINS = 10
_MAX_POINTS = 200
_MAX_CONFUSION = 40
_MAX_BARS = 40
_SHOWN = 30


def macro_f1(truth_NC: np.ndarray, given_NC: np.ndarray) -> float:
    """Mean F1 of the labels that occur in truth.

    Source: Opitz and Burst, "Macro F1 and Macro F1" (2019), the averaged form; scikit-learn's
    ``f1_score(average="macro")`` over the labels that occur.

    Args:
        truth_NC, given_NC: 0 or 1.
    """
    present_C = truth_NC.sum(axis=0) > 0
    if not present_C.any():
        return 0.0
    hits_C = (truth_NC * given_NC).sum(axis=0)
    f1_C = 2 * hits_C / np.maximum(1, truth_NC.sum(axis=0) + given_NC.sum(axis=0))
    return float(f1_C[present_C].mean())


def metrics_with_intervals(
    truth_NC: np.ndarray,
    found_NC: np.ndarray,
    given_NC: np.ndarray,
    *,
    multi_label: bool,
    seed: int,
) -> dict[str, dict[str, float]]:
    """`Report.metrics`: fractions with 95 % intervals; macro F1 comes first.

    Args:
        found_NC: Probabilities.
        given_NC: Labels that are given, 0 or 1.
    """
    num = len(truth_NC)
    if not multi_label:
        found = class_metrics(truth_NC.argmax(axis=1), found_NC, seed=seed)
        return {
            "macro_f1": found.pop("macro_f1"),
            "accuracy": found.pop("top1"),
            **found,
        }

    def micro(i: np.ndarray) -> float:
        total = truth_NC[i].sum() + given_NC[i].sum()
        return float(2 * (truth_NC[i] * given_NC[i]).sum() / max(1, total))

    def precision(i: np.ndarray) -> float:
        present = np.flatnonzero(truth_NC[i].sum(axis=0))
        return float(
            np.mean([average_precision_score(truth_NC[i, c], found_NC[i, c]) for c in present] or [0])
        )

    return {
        "macro_f1": bootstrap(lambda i: macro_f1(truth_NC[i], given_NC[i]), num, seed=seed).to_dict(),
        "micro_f1": bootstrap(micro, num, seed=seed).to_dict(),
        "mean_average_precision": bootstrap(precision, num, seed=seed, resamples=100).to_dict(),
        "exact_match": wilson(int((truth_NC == given_NC).all(axis=1).sum()), num).to_dict(),
    }


def label_table(labels: Sequence[str], truth_NC: np.ndarray, given_NC: np.ndarray) -> Table:
    """How well each label is found, the worst first."""
    rows: list[list[str | int | float | None]] = []
    for index, label in enumerate(labels):
        truth_N, given_N = truth_NC[:, index], given_NC[:, index]
        hits, have, said = int((truth_N * given_N).sum()), int(truth_N.sum()), int(given_N.sum())
        recall = wilson(hits, have)
        f1 = 2 * hits / (have + said) if have + said else None
        rows.append(
            [
                label,
                have,
                f1,
                hits / said if said else None,
                recall.value if have else None,
                f"{recall.low:.2f} to {recall.high:.2f}" if have else "",
            ]
        )
    rows.sort(key=lambda row: float(row[2]) if isinstance(row[2], float) else -1.0)
    return Table(
        id="labels",
        title="Each label on the test part",
        columns=["Label", "Texts", "F1", "Precision", "Recall", "Recall, 95 % interval"],
        rows=rows,
        note="The worst first. Precision: of the answers with this label, the share that is right; recall: "
        "of the texts with this label, the share that is found.",
    )


def confusions_table(labels: Sequence[str], matrix_CC: np.ndarray) -> Table | None:
    """What is most often taken for what."""
    off_CC = matrix_CC - np.diag(np.diag(matrix_CC))
    order = np.argsort(-off_CC, axis=None, kind="stable")[:15]
    rows: list[list[str | int | float | None]] = []
    for flat in order:
        truth, given = (int(i) for i in np.unravel_index(int(flat), off_CC.shape))
        if off_CC[truth, given]:
            share = off_CC[truth, given] / matrix_CC[truth].sum()
            rows.append([labels[truth], labels[given], int(off_CC[truth, given]), float(share)])
    if not rows:
        return None
    return Table(
        id="confusions",
        title="Most frequent mix-ups",
        columns=["Truth", "Answer", "Texts", "Share of the label's texts"],
        rows=rows,
    )


def confusion(labels: Sequence[str], truth_NC: np.ndarray, given_NC: np.ndarray) -> np.ndarray:
    """Counts int64 [C,C] of single labels; rows are the truth."""
    return confusion_matrix(truth_NC.argmax(axis=1), given_NC.argmax(axis=1), len(labels))


def fits_a_page(labels: Sequence[str]) -> bool:
    """Whether a confusion matrix of so many labels can be read."""
    return len(labels) <= _MAX_CONFUSION


def label_chart(labels: Sequence[str], truth_NC: np.ndarray, given_NC: np.ndarray) -> Chart:
    """F1 of each label as bars, the worst first."""
    rows = label_table(labels, truth_NC, given_NC).rows[:_MAX_BARS]
    return Chart(
        id="f1",
        title="F1 of each label",
        kind="bars",
        x_title="label",
        y_title="F1",
        x=[str(row[0]) for row in rows],
        series=[Series(name="test part", y=[row[2] if isinstance(row[2], float) else None for row in rows])],
        note="" if len(labels) <= _MAX_BARS else f"The worst {_MAX_BARS} of {len(labels)}.",
    )


def reliability_chart(truth_NC: np.ndarray, found_NC: np.ndarray, *, multi_label: bool) -> Chart:
    """Share of right answers against confidence."""
    if multi_label:
        # Each label on its own: whether it applies or not.
        p_M = found_NC.ravel()
        measured = reliability(truth_NC.ravel().astype(int), np.stack([1 - p_M, p_M], axis=1), bins=_BINS)
    else:
        measured = reliability(truth_NC.argmax(axis=1), found_NC, bins=_BINS)
    filled = np.flatnonzero(measured.counts > 0)
    bounds = [
        wilson(round(float(measured.accuracy[b] * measured.counts[b])), int(measured.counts[b]))
        for b in filled
    ]
    x = [float(measured.confidence[b]) for b in filled]
    return Chart(
        id="reliability",
        title="Whether confidence can be trusted",
        kind="lines",
        x_title="Confidence",
        y_title="Share of right answers",
        x=x,
        series=[
            Series(
                name="test part",
                y=[float(measured.accuracy[b]) for b in filled],
                low=[bound.low for bound in bounds],
                high=[bound.high for bound in bounds],
            ),
            Series(name="ideal", y=x),
        ],
        note=f"Expected calibration error {measured.error:.3f}. Probabilities are calibrated (temperature) "
        "on texts that were held back from training.",
    )


def coverage_chart(confidence_N: np.ndarray, right_N: np.ndarray) -> Chart:
    """Share of right answers when only the surest texts are answered.

    Source: El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (JMLR 2010),
    section 2: risk-coverage curve.
    """
    order = np.argsort(-confidence_N, kind="stable")
    right = np.cumsum(right_N[order])
    picks = np.unique(np.linspace(0, len(order) - 1, min(len(order), _MAX_POINTS)).round().astype(int))
    bounds = [wilson(int(right[i]), int(i) + 1) for i in picks]
    return Chart(
        id="coverage",
        title="Answering only when sure",
        kind="lines",
        x_title="Share of texts that are answered",
        y_title="Share of right answers",
        x=[(int(i) + 1) / len(order) for i in picks],
        series=[
            Series(
                name="test part",
                y=[bound.value for bound in bounds],
                low=[bound.low for bound in bounds],
                high=[bound.high for bound in bounds],
            )
        ],
        note="The surest answers come first. With max_wrong the engine gives no label where it is unsure.",
    )


def abstention_table(chosen: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Table:
    """What "at most so many wrong" costs in answers, chosen on held-back texts and measured on the test part.

    Args:
        chosen, test: Confidences and whether the answer is right.
    """
    rows: list[list[str | int | float | None]] = []
    for level in LEVELS:
        point = operating_point(*chosen, level)
        answered_N = test[0] >= point.threshold
        wrong = wilson(int((~test[1][answered_N]).sum()), int(answered_N.sum()))
        rows.append(
            [
                f"{level:.0%}",
                point.threshold,
                float(answered_N.mean()),
                wrong.value if answered_N.any() else None,
                f"{wrong.low:.3f} to {wrong.high:.3f}" if answered_N.any() else "",
                "yes" if point.guaranteed else "no: too few texts to be sure",
            ]
        )
    return Table(
        id="abstention",
        title="Answering only when sure: what it costs",
        columns=[
            "At most wrong",
            "Confidence from",
            "Answered (test)",
            "Wrong (test)",
            "95 % interval",
            "Safe",
        ],
        rows=rows,
        note="Safe: on the texts that the threshold was chosen by, even the upper 95 % bound of the share of "
        "wrong answers is below the limit.",
    )


def operating_figures(
    point: OperatingPoint, confidence_N: np.ndarray, right_N: np.ndarray
) -> dict[str, object]:
    """What an operating point gives on the test part, with Wilson's 95 % intervals."""
    answered_N = confidence_N >= point.threshold
    return {
        "test_coverage": wilson(int(answered_N.sum()), len(answered_N)).to_dict(),
        "test_wrong": wilson(int((~right_N[answered_N]).sum()), int(answered_N.sum())).to_dict(),
    }


def mislabelled_table(
    texts: Sequence[UsableText], labels: Sequence[str], truth_NC: np.ndarray, found_NC: np.ndarray
) -> Table | None:
    """Texts to learn from whose label is likely wrong, by models that did not see them.

    Source: Northcutt, Jiang and Chuang, "Confident Learning" (JAIR 2021), section 3.
    """
    given_N = truth_NC.argmax(axis=1)
    picked = suspicious_labels(given_N, found_NC)
    if not len(picked):
        return None
    rows: list[list[str | int | float | None]] = [
        [
            texts[i].place,
            shortened(texts[i].text),
            labels[given_N[i]],
            labels[int(found_NC[i].argmax())],
            float(found_NC[i, given_N[i]]),
        ]
        for i in (int(index) for index in picked[:_SHOWN])
    ]
    return Table(
        id="mislabelled",
        title=f"Perhaps wrong labels: {len(picked)} of {len(texts)}",
        columns=["Where", "Text", "Label", "Rather", "Probability of the label"],
        rows=rows,
        note="Found by confident learning with cross-validated probabilities; the most suspicious first. "
        "Each is either a wrong label or a text that is hard to tell.",
    )
