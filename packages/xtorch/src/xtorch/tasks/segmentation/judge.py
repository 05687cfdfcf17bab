"""What a segmentation engine is calibrated on and judged by; and how outputs become masks everywhere here.

Shapes: H and W rows and columns of a judged image, L logits of a pixel, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xinfer.errors import ImageDecodeError
from xinfer.postproc.masks import class_map
from xinfer.preproc import Geometry
from xinfer.tasks import SemanticSegmentation, parse_task
from xinfer.zoo.images import image_feeds
from xtorch.errors import DataError
from xtorch.models.segmenter import Segmenter
from xtorch.picks import evenly
from xtorch.segmentation_metrics import confusion_counts, mean_iou
from xtorch.tasks.images import ImageItems
from xtorch.tasks.recipe import BuildInputs, Feeds, read_json
from xtorch.tasks.segmentation.files import NaivePredict, load_legend, load_model, logit
from xtorch.tasks.segmentation.samples import Masks

Item = Mapping[str, Any]
"""An image of ``splits.json``: path, mask, width, height."""
JUDGED_PX = 640
"""Longer side at which masks are compared; larger images are scaled to it."""
FLOAT_NODES = ("preprocess/*", "network/head/*", "network/unet/conv/*")
"""INT8 leaves resizing and the last layer in float."""
CALIBRATION_IMAGES = 100
COMPARED_IMAGES = 24
TEST_BYTES = 1 << 30
"""Decoded test images are held in memory; of more than this, a part is measured."""
CALIBRATION_BYTES = 256 << 20


def judged_geometry(geometry: Geometry) -> Geometry:
    """The way to the pixels at which masks are compared: the image's own, up to `JUDGED_PX`."""
    height, width = geometry.original_height, geometry.original_width
    scale = min(1.0, JUDGED_PX / max(height, width))
    judged = max(1, round(height * scale)), max(1, round(width * scale))
    return replace(
        geometry,
        original_height=judged[0],
        original_width=judged[1],
        scale_y=geometry.scale_y * height / judged[0],
        scale_x=geometry.scale_x * width / judged[1],
    )


def torch_outputs(model: Segmenter, task: SemanticSegmentation, feeds: Feeds) -> Feeds:
    """What the torch model gives for a feed."""
    with torch.inference_mode():
        logits_1Lhw = model(torch.from_numpy(feeds[task.input.name]))
    return {task.outputs["logits"]: logits_1Lhw.numpy()}


class HeldOutImages:
    """Images of ``splits.json`` as the engine takes them, and the truth about them.

    Args:
        root: The dataset's folder.
        masks: Reads the truth.
        items: To be read in this order.
        max_bytes: Of decoded images; of more than that, about as many as fit are taken, evenly spread.

    Raises:
        DataError: An image cannot be read.
    """

    def __init__(
        self,
        root: Path,
        task: SemanticSegmentation,
        masks: Masks,
        items: Sequence[Item],
        *,
        max_bytes: int = TEST_BYTES,
    ) -> None:
        self.task = task
        total_bytes = 3 * sum(item["width"] * item["height"] for item in items)
        self.items = evenly(items, max(1, int(len(items) * min(1.0, max_bytes / max(total_bytes, 1)))))
        self.feeds: list[Feeds] = []
        self.geometries: list[Geometry] = []
        self.truth: list[np.ndarray] = []
        for item in self.items:
            try:
                feeds, geometry = image_feeds(task.input, (root / item["path"]).read_bytes())
            except (ImageDecodeError, OSError) as error:
                raise DataError(
                    f"{item['path']} cannot be decoded: {error}",
                    value=item["path"],
                    hint="remove the file or save it again",
                ) from error
            geometry = judged_geometry(geometry)
            self.feeds.append(feeds)
            self.geometries.append(geometry)
            size = (geometry.original_height, geometry.original_width)
            self.truth.append(masks.read(dict(item), size))

    def part(self, places: Sequence[int]) -> HeldOutImages:
        """Some of the images."""
        few = copy.copy(self)
        few.items = [self.items[place] for place in places]
        few.feeds = [self.feeds[place] for place in places]
        few.geometries = [self.geometries[place] for place in places]
        few.truth = [self.truth[place] for place in places]
        return few

    def answers(self, outputs: Sequence[Feeds], *, threshold: float | None = None) -> list[np.ndarray]:
        """Class numbers uint8 [H,W] from the outputs of all `feeds`, in order.

        Args:
            threshold: Of two classes, instead of the task's.
        """
        edge = logit(self.task.threshold if threshold is None else threshold)
        name = self.task.outputs["logits"]
        return [
            class_map(output[name][0], geometry, threshold=edge).astype(np.uint8)
            for output, geometry in zip(outputs, self.geometries, strict=True)
        ]

    def counts(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        """Pixels of each image by true and answered class, int64 [N,K,K]."""
        num_classes = len(self.task.labels)
        return np.stack(
            [
                confusion_counts(truth_HW, answer_HW, num_classes)
                for truth_HW, answer_HW in zip(self.truth, answers, strict=True)
            ]
        )

    def mean_iou(self, outputs: Sequence[Feeds]) -> float:
        """Mean IoU over all images' pixels."""
        return mean_iou(self.counts(self.answers(outputs)).sum(axis=0))


def build_inputs(model_dir: str | Path, dataset_dir: str | Path) -> BuildInputs:
    """
    Args:
        model_dir: The outputs of `run`.
        dataset_dir: The dataset it was trained on.

    Raises:
        WeightsError: The outputs are incomplete.
        DataError: There is no test part, or a file of it is gone.
    """
    model_dir, dataset_dir = Path(model_dir), Path(dataset_dir)
    splits, document = read_json(model_dir / "splits.json"), read_json(model_dir / "task.json")
    task = parse_task(document)
    assert isinstance(task, SemanticSegmentation)
    background = None if task.background is None else task.labels.index(task.background)
    masks = Masks(dataset_dir, load_legend(model_dir), background)
    if not splits["test"]:
        raise DataError("There are no test images to judge engines by.", value=0)
    test = HeldOutImages(dataset_dir, task, masks, splits["test"])
    _, calibration = ImageItems(dataset_dir, task.input.name, task.input.min_side).take(
        evenly(splits["train"], CALIBRATION_IMAGES), max_bytes=CALIBRATION_BYTES
    )
    return BuildInputs(
        metric=task.metric,
        evaluate=test.mean_iou,
        test=test.feeds,
        calibration=calibration,
        float_nodes=FLOAT_NODES,
        peer=NaivePredict(load_model(model_dir), task),
        peer_title="PIL + torch eager, fp32",
        payloads=[(dataset_dir / item["path"]).read_bytes() for item in evenly(test.items, COMPARED_IMAGES)],
    )
