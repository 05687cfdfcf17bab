"""With two classes: from which probability on a pixel is of the second. Chosen on the validation part.

Shapes: B bins of probability, T = B - 1 thresholds between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtorch.tasks.recipe import Feeds
from xtorch.tasks.report import Chart, Mark, Series
from xtorch.tasks.segmentation.judge import HeldOutImages

_BINS = 200
_CLEARLY = 0.002
"""Mean IoU by which another threshold has to be better than one half."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What was chosen, and from what.

    Attributes:
        rule: In words, for the report.
        levels: float64 [T].
        precision, recall, iou: Of the second class's pixels on validation at each level; NaN: undefined.
    """

    value: float
    rule: str
    levels: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    iou: np.ndarray

    def chart(self, label: str) -> Chart:
        """Precision, recall and IoU of the class by threshold."""

        def numbers(values: np.ndarray) -> list[float | None]:
            return [round(float(value), 5) if np.isfinite(value) else None for value in values]

        return Chart(
            id="threshold",
            title=f"From which probability on is it {label}?",
            kind="lines",
            x_title="threshold",
            y_title="share, by pixels of the validation part",
            x=[round(float(level), 4) for level in self.levels],
            series=[
                Series(name="precision", y=numbers(self.precision)),
                Series(name="recall", y=numbers(self.recall)),
                Series(name="IoU", y=numbers(self.iou)),
            ],
            marks=[Mark(x=self.value, name="chosen")],
            note="Precision: of what was marked, how much is right. Recall: of what is there, how much was "
            "marked.",
        )


def choose_threshold(
    validation: HeldOutImages, outputs: Sequence[Feeds], *, miss_cost: float | None
) -> Threshold:
    """The threshold with the best mean IoU, or the least cost.

    Args:
        outputs: Of all of `validation`'s feeds.
        miss_cost: What a missed pixel costs, as a multiple of one that is marked wrongly; None: mean IoU
            decides.
    """
    negative_B, positive_B = np.zeros(_BINS), np.zeros(_BINS)
    name = validation.task.outputs["logits"]
    for output, geometry, truth_HW in zip(outputs, validation.geometries, validation.truth, strict=True):
        logits_HW = geometry.masks_to_original(output[name][0, 0])
        probability_HW = 1 / (1 + np.exp(-logits_HW.astype(np.float64)))
        bins_HW = np.minimum((probability_HW * _BINS).astype(np.int64), _BINS - 1)
        negative_B += np.bincount(bins_HW[truth_HW == 0], minlength=_BINS)
        positive_B += np.bincount(bins_HW[truth_HW == 1], minlength=_BINS)
    # What lies at or above each level, from the first level above 0 on.
    hits_T, false_T = (each[::-1].cumsum()[::-1][1:] for each in (positive_B, negative_B))
    missed_T, right_T = positive_B.sum() - hits_T, negative_B.sum() - false_T
    levels_T = np.arange(1, _BINS) / _BINS
    with np.errstate(divide="ignore", invalid="ignore"):
        iou_T = hits_T / (hits_T + false_T + missed_T)
        other_T = right_T / (right_T + false_T + missed_T)
        precision_T, recall_T = hits_T / (hits_T + false_T), hits_T / (hits_T + missed_T)
    if miss_cost is None:
        gain_T = np.nan_to_num((iou_T + other_T) / 2)
        half = _BINS // 2 - 1
        best = int(gain_T.argmax())
        best = half if gain_T[best] <= gain_T[half] + _CLEARLY else best
        rule = "the highest mean IoU on validation"
    else:
        best = int((false_T + miss_cost * missed_T).argmin())
        rule = f"the least cost on validation, a missed pixel costing {miss_cost:g} times a false one"
    return Threshold(
        value=float(levels_T[best]),
        rule=rule,
        levels=levels_T,
        precision=precision_T,
        recall=recall_T,
        iou=iou_T,
    )
