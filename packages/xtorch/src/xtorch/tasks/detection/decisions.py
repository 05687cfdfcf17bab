"""What is decided on the validation part after training: suppression, and a threshold for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xtorch.detection_metrics import ImageBoxes, best_threshold, match
from xtorch.models.detector import DetectorConfig
from xtorch.tasks.detection.files import IOU_THRESHOLD, detection_task
from xtorch.tasks.detection.judge import HeldOutImages
from xtorch.tasks.recipe import Feeds

_IOU_THRESHOLDS = (IOU_THRESHOLD, 0.45, 0.55, 0.75)
_CLEARLY = 0.002
"""mAP50 by which another overlap has to beat YOLOX's own."""
_MIN_OBJECTS = 5
"""Of a class, to choose a threshold of its own by."""
_UNKNOWN = 0.3
"""The threshold where no class has enough objects."""


def best_suppression(
    images: HeldOutImages, outputs: Sequence[Feeds], config: DetectorConfig, labels: Sequence[str]
) -> float:
    """The overlap from which on the weaker of two boxes goes, by mAP50."""
    values = {}
    for option in _IOU_THRESHOLDS:
        task = detection_task(config, labels, iou_threshold=option)
        values[option] = images.map50(outputs, task) + (_CLEARLY if option == IOU_THRESHOLD else 0.0)
    return max(values, key=values.__getitem__)


def choose_thresholds(
    found: Sequence[ImageBoxes],
    truth: Sequence[ImageBoxes],
    num_classes: int,
    *,
    min_precision: float | None,
) -> tuple[list[float], str]:
    """A threshold for each class, and how it was chosen.

    Args:
        found: detections of each image, weak ones too.
        truth: true objects of each.
        min_precision: as in the settings.
    """
    own: list[float | None] = []
    for index in range(num_classes):
        matches = match(found, truth, index, overlaps=[0.5])
        enough = int(matches.num_true.sum()) >= _MIN_OBJECTS
        own.append(best_threshold(matches, min_precision=min_precision) if enough else None)
    known = [value for value in own if value is not None]
    common = float(np.median(known)) if known else _UNKNOWN
    rule = (
        "each class's highest F1 on validation"
        if min_precision is None
        else f"each class's lowest threshold with a precision of {min_precision:.0%} on validation"
    )
    if len(known) < len(own):
        rule += (
            f"; classes of which fewer than {_MIN_OBJECTS} objects, or none, could be found there take the "
            "others' median"
        )
    return [common if value is None else value for value in own], rule
