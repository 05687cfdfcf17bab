"""What a detection engine is calibrated on and judged by; and how outputs become detections everywhere here.

Shapes: N images, A candidates, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from xinfer.preproc import Geometry
from xinfer.tasks import ObjectDetection, parse_task
from xinfer.zoo.detection import interpret
from xinfer.zoo.images import image_feeds
from xtorch.detection_metrics import ImageBoxes, coco_metrics
from xtorch.errors import DataError
from xtorch.models.detector import Detector
from xtorch.picks import evenly
from xtorch.tasks.detection.files import NaivePredict, load_model
from xtorch.tasks.detection.items import Item, truth_of
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
_GOLDEN = (5**0.5 - 1) / 2


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
        max_bytes: of decoded images; of more than that, as many as fit are taken, evenly spread.
    """

    def __init__(
        self, root: Path, task: ObjectDetection, items: Sequence[Item], *, max_bytes: int = TEST_BYTES
    ) -> None:
        self.task = task
        taken: dict[int, tuple[Feeds, Geometry]] = {}
        # Every beginning of this order is spread over all items.
        for index in sorted(range(len(items)), key=lambda i: i * _GOLDEN % 1):
            feeds, geometry = image_feeds(task.input, (root / items[index]["path"]).read_bytes())
            max_bytes -= feeds[task.input.name].nbytes
            if taken and max_bytes < 0:
                break
            taken[index] = feeds, geometry
        kept = sorted(taken)
        self.items = [items[index] for index in kept]
        self.feeds = [taken[index][0] for index in kept]
        self.geometries = [taken[index][1] for index in kept]
        self.truth = [truth_of(item) for item in self.items]

    def found(self, outputs: Sequence[Feeds], task: ObjectDetection | None = None) -> list[ImageBoxes]:
        """Detections from the outputs of all `feeds`, in order.

        Args:
            task: instead of the one that is known, for another suppression.
        """
        return [
            detections(task or self.task, each, geometry)
            for each, geometry in zip(outputs, self.geometries, strict=True)
        ]

    def map50(self, outputs: Sequence[Feeds], task: ObjectDetection | None = None) -> float:
        """Mean average precision at overlap 0.5; arguments as in `found`."""
        return coco_metrics(self.found(outputs, task), self.truth, len(self.task.labels)).map50


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
        dataset_dir, task, evenly(splits["train"], CALIBRATION_IMAGES), max_bytes=CALIBRATION_BYTES
    )
    return BuildInputs(
        metric=task.metric,
        evaluate=test.map50,
        test=test.feeds,
        calibration=calibration.feeds,
        float_nodes=FLOAT_NODES,
        peer=NaivePredict(load_model(model_dir), document),
        peer_title="PIL + torch eager, fp32, NMS in Python",
        payloads=[(dataset_dir / item["path"]).read_bytes() for item in evenly(test.items, COMPARED_IMAGES)],
    )
