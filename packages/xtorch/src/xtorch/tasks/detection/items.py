"""Images of the data check as training, ``splits.json`` and the metrics take them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xtorch.data.check_detection import UsableImage
from xtorch.detection_metrics import ImageBoxes
from xtorch.tasks.detection.samples import Sample

Item = Mapping[str, Any]
"""An image of ``splits.json``: path, width, height, and ``objects``: label, box in pixels, ignored."""


def input_size(images: Sequence[UsableImage], longer_side: int) -> tuple[int, int]:
    """Height and width of the network's input: of the images' shape where they have one, else square.

    Args:
        images: training images.
        longer_side: a multiple of 32.
    """
    ratio = float(np.median([image.height / image.width for image in images]))
    shorter = max(32, math.ceil(longer_side * min(ratio, 1 / ratio) / 32) * 32)
    size = (shorter, longer_side) if ratio <= 1 else (longer_side, shorter)
    # How much smaller an image becomes in it than in a square.
    smaller = [
        min(size[0] / image.height, size[1] / image.width) * max(image.height, image.width) / longer_side
        for image in images
    ]
    return size if np.mean(np.array(smaller) > 0.95) >= 0.9 else (longer_side, longer_side)


def samples(images: Sequence[UsableImage]) -> list[Sample]:
    """Images as training takes them: without the objects that are to be ignored."""
    return [
        Sample(path=image.path, boxes=image.boxes[~image.ignored], labels=image.labels[~image.ignored])
        for image in images
    ]


def truth_of_image(image: UsableImage) -> ImageBoxes:
    """True objects in pixels of the upright image."""
    return ImageBoxes(
        boxes=image.boxes * np.array([image.width, image.height] * 2),
        labels=image.labels,
        ignored=image.ignored,
    )


def split_items(images: Sequence[UsableImage]) -> list[dict[str, Any]]:
    """Images for ``splits.json``: boxes in pixels of the upright image."""
    items = []
    for image in images:
        truth = truth_of_image(image)
        objects = [
            {"label": int(label), "box": [round(float(edge), 2) for edge in box], "ignored": bool(ignored)}
            for label, box, ignored in zip(truth.labels, truth.boxes, truth.crowd, strict=True)
        ]
        items.append({"path": image.path, "width": image.width, "height": image.height, "objects": objects})
    return items


def truth_of(item: Item) -> ImageBoxes:
    """The true objects of an entry of ``splits.json``."""
    objects = item["objects"]
    return ImageBoxes(
        boxes=np.array([each["box"] for each in objects], float).reshape(-1, 4),
        labels=np.array([each["label"] for each in objects], np.int64),
        ignored=np.array([each["ignored"] for each in objects], bool),
    )
