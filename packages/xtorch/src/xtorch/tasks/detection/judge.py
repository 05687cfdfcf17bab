"""What a detection engine is calibrated on and judged by; and how outputs become detections everywhere here.

Shapes: N images, A candidates, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xinfer.preproc import Geometry
from xinfer.tasks import ObjectDetection, parse_task
from xinfer.zoo.detection import interpret
from xinfer.zoo.images import image_feeds
from xtorch.detection_metrics import ImageBoxes, coco_metrics
from xtorch.errors import DataError
from xtorch.models.detector import Detector
from xtorch.tasks.detection.files import NaivePredict, load_model
from xtorch.tasks.images import every
from xtorch.tasks.recipe import BuildInputs, Feeds, read_json

WEAK = 0.01
"""Weaker detections do not change average precision noticeably and cost most of its time."""
FLOAT_NODES = (
    "preprocess/*", "decode/*", "network/head/*_preds/*", "network/head/Sigmoid*", "network/head/Concat*",
    "network/Concat*", "network/Transpose*",
)  # fmt: skip
"""INT8 leaves the last layers and decoding in float: 8 bits do not resolve boxes and scores."""
CALIBRATION_IMAGES = 100
COMPARED_IMAGES = 24
TEST_BYTES = 1 << 30
"""Decoded test images are held in memory; of more than this, a part is measured."""
CALIBRATION_BYTES = 256 << 20

Item = Mapping[str, Any]
"""An image of ``splits.json``: path, width, height, and ``objects``: label, box in pixels, ignored."""


def truth_of(item: Item) -> ImageBoxes:
    """The true objects of an entry of ``splits.json``."""
    objects = item["objects"]
    return ImageBoxes(
        boxes=np.array([each["box"] for each in objects], float).reshape(-1, 4),
        labels=np.array([each["label"] for each in objects], np.int64),
        ignored=np.array([each["ignored"] for each in objects], bool),
    )


def detections(task: ObjectDetection, outputs: Feeds, geometry: Geometry) -> ImageBoxes:
    """The detections of one image down to weak ones, suppressed as the engine's runner does it.

    Args:
        outputs: boxes [1,A,4] and scores [1,A,K].
        geometry: the way to the pixels of the image as the file has it, upright.
    """
    found = interpret(task, outputs, geometry, score_threshold=WEAK)
    return ImageBoxes(boxes=found.boxes, labels=found.classes, scores=found.scores)


def torch_outputs(model: Detector, task: ObjectDetection, feeds: Feeds) -> Feeds:
    """What the torch model gives for a feed."""
    with torch.inference_mode():
        boxes, scores = model(torch.from_numpy(feeds[task.input.name]))
    return {task.outputs["boxes"]: boxes.numpy(), task.outputs["scores"]: scores.numpy()}


class HeldOutImages:
    """Images of ``splits.json`` as the engine takes them, and the truth about them.

    Args:
        root: the dataset's folder.
        items: to be read in this order.
        max_bytes: of decoded images; the rest is left out.
    """

    def __init__(
        self, root: Path, task: ObjectDetection, items: Sequence[Item], *, max_bytes: int = TEST_BYTES
    ) -> None:
        self.task = task
        self.items: list[Item] = []
        self.feeds: list[Feeds] = []
        self.geometries: list[Geometry] = []
        for item in items:
            feeds, geometry = image_feeds(task.input, (root / item["path"]).read_bytes())
            max_bytes -= feeds[task.input.name].nbytes
            if self.items and max_bytes < 0:
                break
            self.items.append(item)
            self.feeds.append(feeds)
            self.geometries.append(geometry)
        self.truth = [truth_of(item) for item in self.items]

    def found(self, outputs: Sequence[Feeds]) -> list[ImageBoxes]:
        """Detections from the outputs of all `feeds`, in order."""
        return [
            detections(self.task, each, geometry)
            for each, geometry in zip(outputs, self.geometries, strict=True)
        ]

    def map50(self, outputs: Sequence[Feeds]) -> float:
        """Mean average precision at overlap 0.5 from the outputs of all `feeds`."""
        return coco_metrics(self.found(outputs), self.truth, len(self.task.labels)).map50


def build_inputs(model_dir: str | Path, dataset_dir: str | Path) -> BuildInputs:
    """
    Args:
        model_dir: The outputs of `run`.
        dataset_dir: The dataset it was trained on.

    Raises:
        WeightsError: The outputs are incomplete.
        DataError: The test part has no objects.
    """
    model_dir, dataset_dir = Path(model_dir), Path(dataset_dir)
    splits, document = read_json(model_dir / "splits.json"), read_json(model_dir / "task.json")
    task = parse_task(document)
    assert isinstance(task, ObjectDetection)
    test = HeldOutImages(dataset_dir, task, splits["test"])
    if not any(len(truth.labels) for truth in test.truth):
        raise DataError("The test part has no objects.", value=len(test.items))
    calibration = HeldOutImages(
        dataset_dir, task, every(splits["train"], CALIBRATION_IMAGES), max_bytes=CALIBRATION_BYTES
    )
    evaluate: Callable[[Sequence[Feeds]], float] = test.map50
    return BuildInputs(
        metric=task.metric,
        evaluate=evaluate,
        test=test.feeds,
        calibration=calibration.feeds,
        float_nodes=FLOAT_NODES,
        peer=NaivePredict(load_model(model_dir), document),
        peer_title="PIL + torch eager, fp32, NMS in Python",
        payloads=[(dataset_dir / item["path"]).read_bytes() for item in every(test.items, COMPARED_IMAGES)],
    )
