"""What the training report shows of a segmenter: figures, charts, tables, pictures (ARCHITECTURE.md, 10.6).

Shapes: N images, K classes, H and W rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xinfer.preproc import decode_image
from xinfer.zoo import drawing
from xtorch.data.label_masks import resized_mask
from xtorch.segmentation_metrics import (
    boundary_counts,
    class_intervals,
    dice_by_class,
    intervals,
    iou_by_class,
)
from xtorch.tasks.report import Chart, Picture, Series, Table
from xtorch.tasks.segmentation.files import METRIC
from xtorch.tasks.segmentation.judge import HeldOutImages

_WORST, _BEST = 9, 3
_PICTURE_PX = 320
_RIGHT_IOU = 0.5
"""From this overlap on an image counts as right in the gallery."""
_SLACK_SHARE = 0.005
"""Of an image's pixels: a speck counts less than a thing that was missed."""
_MAX_PAIRS = 12


class Evaluation:
    """The test part, judged once.

    Args:
        labels: K names.
        background: Which of them is the background; None: none is.
        images: N.
        answers: Class numbers [H,W] of each.
        seed: Of the bootstrap.
    """

    def __init__(
        self,
        labels: Sequence[str],
        background: int | None,
        images: HeldOutImages,
        answers: Sequence[np.ndarray],
        *,
        seed: int,
    ) -> None:
        self.labels, self.background, self.images, self.answers = labels, background, images, answers
        self.seed = seed
        self.counts_NKK = images.counts(answers)
        self.boundaries_NK2 = np.stack(
            [
                boundary_counts(truth_HW, answer_HW, len(labels))
                for truth_HW, answer_HW in zip(images.truth, answers, strict=True)
            ]
        )

    @property
    def totals(self) -> np.ndarray:
        """Pixels of all images by true and answered class, int64 [K,K]."""
        total_KK: np.ndarray = self.counts_NKK.sum(axis=0)
        return total_KK

    def metrics(self) -> dict[str, dict[str, float]]:
        """`Report.metrics`."""
        found = intervals(self.counts_NKK, self.boundaries_NK2, background=self.background, seed=self.seed)
        return {name: interval.to_dict() for name, interval in found.items()}

    def confusion(self) -> dict[str, Any]:
        """`Report.confusion`, in pixels at the judged size."""
        return {"labels": list(self.labels), "matrix": self.totals.tolist()}

    def class_table(self) -> Table:
        """A row for each class, the hardest first."""
        matrix = self.totals
        spans, dice_K = class_intervals(self.counts_NKK, seed=self.seed), dice_by_class(matrix)
        edges_K2 = self.boundaries_NK2.sum(axis=0)
        order = np.argsort(np.nan_to_num(iou_by_class(matrix), nan=2.0), kind="stable")
        rows: list[list[str | int | float | None]] = []
        for number in map(int, order):
            hits, true, said = (
                int(matrix[number, number]),
                int(matrix[number].sum()),
                int(matrix[:, number].sum()),
            )
            span = spans[number]
            rows.append(
                [
                    self.labels[number],
                    int((self.counts_NKK[:, number].sum(axis=1) > 0).sum()),
                    true / max(1, int(matrix.sum())),
                    None if span is None else span.value,
                    None if span is None else f"{span.low:.2f} to {span.high:.2f}",
                    _number(dice_K[number]),
                    hits / said if said else None,
                    hits / true if true else None,
                    int(edges_K2[number, 0]) / int(edges_K2[number, 1]) if edges_K2[number, 1] else None,
                ]
            )
        return Table(
            id="classes",
            title="Classes, the hardest first",
            columns=[
                *("class", "test images", "share of pixels", "IoU", "95 % interval", "Dice", "precision"),
                *("recall", "boundary IoU"),
            ],
            rows=rows,
            note="By pixels of the test part. Precision: of what was marked, how much is right. Recall: of "
            "what is there, how much was marked.",
        )

    def confused_table(self) -> Table | None:
        """Which class is taken for which; None with two classes, whose table says it all."""
        if len(self.labels) < 3:
            return None
        matrix = self.totals.copy()
        totals_K = matrix.sum(axis=1)
        np.fill_diagonal(matrix, 0)
        pairs = sorted(
            ((int(matrix[i, j]), int(i), int(j)) for i, j in np.argwhere(matrix)),
            key=lambda pair: (-pair[0], pair[1:]),
        )
        if not pairs:
            return None
        return Table(
            id="confused",
            title="Taken for another class",
            columns=["it is", "said", "pixels", "share of the class"],
            rows=[
                [self.labels[i], self.labels[j], num, num / int(totals_K[i])]
                for num, i, j in pairs[:_MAX_PAIRS]
            ],
        )

    def overlap_chart(self) -> Chart:
        """How the images' own overlaps are distributed."""
        edges = np.linspace(0, 1, 11)
        amounts, _ = np.histogram(self.overlaps, bins=edges)
        return Chart(
            id="overlaps",
            title="Overlap of single images",
            kind="histogram",
            x_title="mean IoU of an image",
            y_title="test images",
            x=edges.tolist(),
            series=[Series(name="test part", y=[float(amount) for amount in amounts])],
        )

    @cached_property
    def overlaps(self) -> np.ndarray:
        """Mean IoU of each image over the classes that are there or answered, float64 [N]."""
        return np.array(
            [
                float(np.nan_to_num(_nanmean(iou_by_class(counts_KK)), nan=1.0))
                for counts_KK in self.counts_NKK
            ]
        )

    @cached_property
    def goodness(self) -> np.ndarray:
        """What images are shown by, float64 [N]: Dice over what is to be marked, small specks forgiven."""
        hits = np.diagonal(self.counts_NKK, axis1=1, axis2=2).astype(np.float64)
        both = self.counts_NKK.sum(axis=1) + self.counts_NKK.sum(axis=2).astype(np.float64)
        slack = _SLACK_SHARE * self.counts_NKK.sum(axis=(1, 2))[:, None]
        dice_NK = (2 * hits + slack) / (both + slack)
        dice_NK[both == 0] = np.nan
        if self.background is not None:
            dice_NK = np.delete(dice_NK, self.background, axis=1)
        return np.array([float(np.nan_to_num(_nanmean(row), nan=1.0)) for row in dice_NK])

    def gallery(self, root: Path, folder: Path) -> list[Picture]:
        """The worst images, then the best that have something to mark, drawn into `folder`/report."""
        order = np.argsort(self.goodness, kind="stable").tolist()
        telling = [index for index in reversed(order) if self._has_content(index)]
        shown = list(dict.fromkeys([*order[:_WORST], *telling[:_BEST]]))
        (folder / "report").mkdir(parents=True, exist_ok=True)
        return [self._picture(root, folder, index, rank) for rank, index in enumerate(shown)]

    def _picture(self, root: Path, folder: Path, index: int, rank: int) -> Picture:
        item = self.images.items[index]
        pixels_HW3 = decode_image((root / item["path"]).read_bytes(), min_side=_PICTURE_PX)
        small = Image.fromarray(pixels_HW3)
        small.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.BICUBIC)
        image_HW3 = np.asarray(small)
        names = tuple(f"example_{rank:02d}_{what}.jpg" for what in ("image", "truth", "answer"))
        masks = (None, self.images.truth[index], self.answers[index])
        for name, mask_HW in zip(names, masks, strict=True):
            drawn = image_HW3 if mask_HW is None else self._drawn(image_HW3, mask_HW)
            Image.fromarray(drawn).save(folder / "report" / name, quality=88)
        overlap = float(self.overlaps[index])
        return Picture(
            caption=item["path"],
            truth=self._shares(index, axis=1),
            answer=self._shares(index, axis=0),
            right=overlap >= _RIGHT_IOU,
            images=names,
            note=f"mean IoU {overlap:.2f}; the image, the truth, the answer",
        )

    def _drawn(self, image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
        mask_HW = resized_mask(mask_HW, *image_HW3.shape[:2])
        palette_C3 = np.array([drawing.colour(number) for number in range(256)], np.uint8)
        shown_C = np.arange(256) < len(self.labels)
        if self.background is not None:
            shown_C[self.background] = False
        return drawing.overlay(image_HW3, palette_C3[mask_HW], shown_C[mask_HW] * np.float32(0.55))

    def _has_content(self, index: int) -> bool:
        """Whether an image shows anything but the background."""
        amounts_K = self.counts_NKK[index].sum(axis=1)
        return self.background is None or bool(np.delete(amounts_K, self.background).any())

    def _shares(self, index: int, *, axis: int) -> str:
        """What an image shows, in truth (axis 1) or by the answer (axis 0)."""
        amounts_K = self.counts_NKK[index].sum(axis=axis)
        total = max(1, int(amounts_K.sum()))
        order = [int(k) for k in np.argsort(-amounts_K, kind="stable") if amounts_K[k]]
        parts = [f"{self.labels[k]} {_percent(amounts_K[k] / total)}" for k in order if k != self.background]
        return ", ".join(parts[:4]) or "nothing but background"

    def held_out(self) -> list[dict[str, Any]]:
        """`Report.held_out`."""
        rows = []
        for index, item in enumerate(self.images.items):
            amounts_K = self.counts_NKK[index].sum(axis=1).copy()
            if self.background is not None and np.delete(amounts_K, self.background).any():
                amounts_K[self.background] = 0
            rows.append(
                {
                    "path": item["path"],
                    "label": self.labels[int(amounts_K.argmax())],
                    METRIC: float(self.overlaps[index]),
                }
            )
        return rows

    def operating_figures(self) -> dict[str, float | None]:
        """What the threshold means on the test part, by pixels of the second of two classes."""
        matrix = self.totals
        hits, true, said = int(matrix[1, 1]), int(matrix[1].sum()), int(matrix[:, 1].sum())
        return {
            "test_precision": hits / said if said else None,
            "test_recall": hits / true if true else None,
        }


def training_chart(history: Sequence[Mapping[str, float]]) -> Chart:
    """Loss and validation by round."""

    def series(metric: str) -> list[float | None]:
        values = [epoch.get(metric, math.nan) for epoch in history]
        return [float(value) if math.isfinite(value) else None for value in values]

    return Chart(
        id="training",
        title="Training",
        kind="lines",
        x_title="round",
        y_title="loss, and mean IoU on validation",
        x=[float(epoch) for epoch in range(1, len(history) + 1)],
        series=[Series(name="loss", y=series("loss")), Series(name="validation mean IoU", y=series(METRIC))],
        note="The weights of the round that validates best are kept.",
    )


def _nanmean(values_K: np.ndarray) -> float:
    known = values_K[np.isfinite(values_K)]
    return float(known.mean()) if len(known) else math.nan


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0995 or share == 0 else f"{share:.2%}"
