"""A trained detector on disk (ARCHITECTURE.md, 10.3), and the plain pipeline that is engines' peer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from xinfer.tasks import ObjectDetection, parse_task
from xtorch.models.detector import Detector, DetectorConfig
from xtorch.tasks.saved import load_weights, save_weights

METRIC = "map50"
IOU_THRESHOLD = 0.65
"""Of suppression, in YOLOX's own evaluation."""


def save_model(model: Detector, folder: Path) -> None:
    """Writes ``model.safetensors`` and ``model.json``."""
    save_weights(model, folder, model.config.to_dict())


def load_model(folder: str | Path) -> Detector:
    """Rebuilds the torch model of a training output.

    Args:
        folder: holds ``model.safetensors`` and ``model.json``.

    Returns:
        In evaluation mode, see `Detector`.

    Raises:
        WeightsError: a file is missing, or the two do not fit each other.
    """
    return load_weights(folder, Detector, lambda config: Detector(DetectorConfig(**config)))


def task_spec(
    config: DetectorConfig,
    labels: Sequence[str],
    *,
    score_threshold: float,
    class_thresholds: Sequence[float],
    iou_threshold: float,
) -> dict[str, Any]:
    """The task spec, `xinfer.tasks.ObjectDetection`."""
    return {
        "task": "object-detection",
        "version": 1,
        "input": {
            "name": "image",
            "kind": "image",
            "color": "RGB",
            "min_side": min(config.size),
            "size": None,
            "mode": "any",
            "pad_value": 0,
        },
        "outputs": {"boxes": "boxes", "scores": "scores"},
        "labels": list(labels),
        "score_threshold": score_threshold,
        "class_thresholds": list(class_thresholds),
        "iou_threshold": iou_threshold,
        "max_detections": 100,
        "metric": METRIC,
    }


def detection_task(
    config: DetectorConfig,
    labels: Sequence[str],
    *,
    class_thresholds: Sequence[float] | None = None,
    iou_threshold: float = IOU_THRESHOLD,
) -> ObjectDetection:
    """The task of a detector; without thresholds all detections are shown."""
    thresholds = [0.0] * len(labels) if class_thresholds is None else class_thresholds
    task = parse_task(
        task_spec(
            config,
            labels,
            score_threshold=min(thresholds),
            class_thresholds=thresholds,
            iou_threshold=iou_threshold,
        )
    )
    assert isinstance(task, ObjectDetection)
    return task


class NaivePredict:
    """The pipeline that most people deploy: Pillow decodes, torch runs eagerly, a Python loop suppresses.

    Args:
        model: from `load_model`.
        task: the document of `task_spec`.
    """

    def __init__(self, model: Detector, task: dict[str, Any]) -> None:
        self._model, self._task = model, task

    def __call__(self, data: bytes) -> list[tuple[int, float, tuple[float, float, float, float]]]:
        """Class, score and box (in the image's pixels) of each detection in an encoded image."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        image_1HW3 = torch.from_numpy(np.array(image.convert("RGB")))[None]
        with torch.inference_mode():
            boxes_1A4, scores_1AK = self._model(image_1HW3)
        best_A, labels_A = scores_1AK[0].max(dim=1)
        limits = torch.tensor(self._task["class_thresholds"])[labels_A]
        shown = (best_A >= limits).nonzero()[:, 0]
        shown = shown[best_A[shown].argsort(descending=True)]
        kept: list[tuple[int, float, tuple[float, float, float, float]]] = []
        for index in shown.tolist():
            left, top, right, bottom = boxes_1A4[0, index].tolist()
            box = (left, top, right, bottom)
            label = int(labels_A[index])
            same = [other for other_label, _, other in kept if other_label == label]
            if all(_overlap(box, other) <= self._task["iou_threshold"] for other in same):
                kept.append((label, float(best_A[index]), box))
        return kept[: self._task["max_detections"]]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
