"""What the training report shows of a detector: figures, curves, tables, pictures (ARCHITECTURE.md, 10.6).

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xinfer.preproc import decode_image
from xinfer.zoo import drawing
from xtorch.detection_metrics import (
    ERROR_KINDS,
    CocoMetrics,
    ImageBoxes,
    above,
    confusion_matrix,
    error_kinds,
    intervals,
    match,
    precision_recall,
)
from xtorch.metrics import wilson
from xtorch.tasks.report import Chart, Picture, Series, Table

_WORST = 12
_PICTURE_PX = 640
_MAX_CURVES = 12
_RECALLS = np.linspace(0, 1, 101)

Item = Mapping[str, Any]


class Evaluation:
    """The test part, scored once.

    Args:
        labels: K names.
        found: detections of each test image, weak ones too.
        truth: true objects of each.
        coco: COCO's figures of them.
        thresholds: of each class.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        labels: Sequence[str],
        found: Sequence[ImageBoxes],
        truth: Sequence[ImageBoxes],
        coco: CocoMetrics,
        thresholds: Sequence[float],
        *,
        seed: int,
    ) -> None:
        self.labels, self.found, self.truth, self.coco = labels, found, truth, coco
        self.thresholds, self.seed = thresholds, seed
        self.shown = above(found, thresholds)
        self.matrix = confusion_matrix(self.shown, truth, len(labels))

    def counts(self, label: int | None = None) -> tuple[int, int, int]:
        """Right detections, false ones and missed objects at the thresholds; of one class or all."""
        right = false = missed = 0
        for index in range(len(self.labels)) if label is None else [label]:
            matches = match(self.shown, self.truth, index, overlaps=[0.5])
            hits = int(matches.hits[0].sum())
            right += hits
            false += int((~matches.hits[0] & ~matches.left_out[0]).sum())
            missed += int(matches.num_true.sum()) - hits
        return right, false, missed

    def metrics(self) -> dict[str, dict[str, float]]:
        """`Report.metrics`: average precision (bootstrap intervals), precision and recall (Wilson's)."""
        right, false, missed = self.counts()
        of_images = intervals(self.found, self.truth, len(self.labels), seed=self.seed)
        return {name: interval.to_dict() for name, interval in of_images.items()} | {
            "precision": wilson(right, right + false).to_dict(),
            "recall": wilson(right, right + missed).to_dict(),
        }

    def confusion(self) -> dict[str, Any]:
        """`Report.confusion`, with "background" as the last label."""
        return {"labels": [*self.labels, "background"], "matrix": self.matrix.tolist()}

    def class_table(self) -> Table:
        """A row for each class."""
        rows: list[list[str | int | float | None]] = []
        for index, label in enumerate(self.labels):
            right, false, missed = self.counts(index)
            of_class = self.coco.by_class.get(index, {"ap": None, "ap50": None})
            rows.append(
                [
                    label,
                    right + missed,
                    of_class["ap50"],
                    of_class["ap"],
                    self.thresholds[index],
                    right / (right + false) if right + false else None,
                    right / (right + missed) if right + missed else None,
                ]
            )
        return Table(
            id="classes",
            title="By class",
            columns=["Class", "Objects", "mAP50", "mAP50-95", "Threshold", "Precision", "Recall"],
            rows=rows,
            note="Test part. Precision and recall are those at the class's threshold, from overlap 0.5 on.",
        )

    def size_table(self) -> Table:
        """A row for each of COCO's sizes."""
        areas = {"small": "under 32x32", "medium": "32x32 to 96x96", "large": "over 96x96"}
        return Table(
            id="sizes",
            title="By size of the object",
            columns=["Size", "Pixels of the image", "mAP50-95"],
            rows=[[size, area, self.coco.overall[f"map_{size}"]] for size, area in areas.items()],
            note="Empty: the test part has no such objects.",
        )

    def error_chart(self) -> Chart:
        """Kinds of mistakes at the thresholds."""
        kinds = error_kinds(self.shown, self.truth)
        return Chart(
            id="errors",
            title="What goes wrong",
            kind="bars",
            x_title="Kind of mistake",
            y_title="Number",
            x=list(ERROR_KINDS),
            series=[Series(name="test part", y=[float(kinds[kind]) for kind in ERROR_KINDS])],
            note="classification: right place, wrong class; localisation: right class, overlap under 0.5; "
            "both; duplicate: found twice; background: nothing is there; missed: not found at all.",
        )

    def precision_recall_chart(self) -> Chart:
        """Precision at each recall for the classes with the most objects."""
        amounts = np.bincount(
            np.concatenate([each.labels for each in self.truth]), minlength=len(self.labels)
        )
        picks = sorted(np.argsort(-amounts, kind="stable")[:_MAX_CURVES].tolist())
        series = []
        for index in picks:
            matches = match(self.found, self.truth, index, overlaps=[0.5])
            _, precision, recall = precision_recall(matches)
            y: list[float | None] = [None] * len(_RECALLS)
            if len(precision):
                best = np.maximum.accumulate(precision[::-1])[::-1]
                places = np.searchsorted(recall, _RECALLS)
                y = [float(best[place]) if place < len(best) else None for place in places]
            series.append(Series(name=self.labels[index], y=y))
        return Chart(
            id="precision_recall",
            title="Precision against recall",
            kind="lines",
            x_title="Recall: objects found, share",
            y_title="Precision: right detections, share",
            x=_RECALLS.tolist(),
            series=series,
            note="Overlap 0.5; the mean area below the curves is mAP50.",
        )

    @cached_property
    def mistakes(self) -> list[tuple[int, int, int]]:
        """Right, false and missed of each image, at the thresholds."""
        rows = []
        for found, truth in zip(self.shown, self.truth, strict=True):
            right = false = wanted = 0
            for index in range(len(self.labels)):
                matches = match([found], [truth], index, overlaps=[0.5])
                right += int(matches.hits[0].sum())
                false += int((~matches.hits[0] & ~matches.left_out[0]).sum())
                wanted += int(matches.num_true[0])
            rows.append((right, false, wanted - right))
        return rows

    def gallery(self, root: Path, folder: Path, items: Sequence[Item]) -> list[Picture]:
        """The images with the most mistakes, drawn into `folder`/report: truth, and answer beside it."""
        mistakes = self.mistakes
        order = sorted(
            range(len(items)), key=lambda i: (-(mistakes[i][1] + mistakes[i][2]), items[i]["path"])
        )
        (folder / "report").mkdir(parents=True, exist_ok=True)
        pictures = []
        for rank, index in enumerate(order[:_WORST]):
            item, (right, false, missed) = items[index], mistakes[index]
            pixels_HW3 = decode_image((root / item["path"]).read_bytes(), min_side=_PICTURE_PX)
            small = Image.fromarray(pixels_HW3)
            small.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.BICUBIC)
            scale = np.array([small.width / item["width"], small.height / item["height"]] * 2)
            names = (f"worst_{rank:02d}_truth.jpg", f"worst_{rank:02d}_answer.jpg")
            for name, boxes in zip(names, (self.truth[index], self.shown[index]), strict=True):
                self._drawn(np.asarray(small), boxes, scale).save(folder / "report" / name, quality=88)
            pictures.append(
                Picture(
                    caption=item["path"],
                    truth=f"{len(self.truth[index].labels)} objects",
                    answer=f"{right} right, {false} false, {missed} missed",
                    right=false + missed == 0,
                    images=names,
                    note="Left the truth, right the answer.",
                )
            )
        return pictures

    def _drawn(self, image_HW3: np.ndarray, boxes: ImageBoxes, scale_4: np.ndarray) -> Image.Image:
        for index, label in enumerate(boxes.labels.tolist()):
            text = self.labels[label]
            if boxes.scores is not None:
                text += f" {boxes.scores[index]:.2f}"
            image_HW3 = drawing.box(image_HW3, boxes.boxes[index] * scale_4, text, drawing.colour(label))
        return Image.fromarray(image_HW3)


def training_chart(history: Sequence[Mapping[str, float]]) -> Chart:
    """Loss and validation over epochs."""

    def series(metric: str) -> list[float | None]:
        values = [epoch.get(metric, float("nan")) for epoch in history]
        return [float(value) if np.isfinite(value) else None for value in values]

    return Chart(
        id="training",
        title="Training",
        kind="lines",
        x_title="Epoch",
        y_title="Loss, and mAP50 on validation",
        x=[float(epoch) for epoch in range(1, len(history) + 1)],
        series=[Series(name="loss", y=series("loss")), Series(name="validation mAP50", y=series("map50"))],
        note="The weights of the epoch that validates best are kept.",
    )
