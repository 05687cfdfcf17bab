"""Trivial detectors that a trained one has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from xinfer.postproc.nms import nms
from xtorch.data.check_detection import UsableImage
from xtorch.detection_metrics import ImageBoxes, overlap_matrix
from xtorch.models.detector import Detector, DetectorConfig
from xtorch.tasks.detection.weights import Published

_MAX_BOXES = 1500
"""Of a class: more are drawn from at random."""
_KEPT = 30


class UsualPlaces:
    """The same boxes for every image: where the objects of each class are most often.

    A box's score is the share of training images in which some object of the class overlaps it by half.

    Args:
        train: training images.
        seed: of the draw where there are very many boxes.
    """

    def __init__(self, train: Sequence[UsableImage], num_classes: int, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        boxes, labels, scores = [], [], []
        for label in range(num_classes):
            owners = np.concatenate(
                [np.full((image.labels == label).sum(), i) for i, image in enumerate(train)] or [np.zeros(0)]
            )
            all_M4 = np.concatenate([image.boxes[image.labels == label] for image in train])
            picks = np.sort(rng.permutation(len(all_M4))[:_MAX_BOXES])
            box_M4, owner_M = all_M4[picks], owners[picks]
            if not len(box_M4):
                continue
            close_MM = overlap_matrix(box_M4, box_M4) >= 0.5
            share_M = np.array([len(np.unique(owner_M[row])) for row in close_MM]) / len(train)
            kept = nms(box_M4, share_M, iou_threshold=0.5, max_detections=_KEPT)
            boxes.append(box_M4[kept])
            labels.append(np.full(len(kept), label))
            scores.append(share_M[kept])
        self._boxes_M4 = np.concatenate(boxes) if boxes else np.zeros((0, 4))
        self._labels_M = np.concatenate(labels) if labels else np.zeros(0, np.int64)
        self._scores_M = np.concatenate(scores) if scores else np.zeros(0)

    def __call__(self, images: Sequence[UsableImage]) -> list[ImageBoxes]:
        """The same answer for each, in its pixels."""
        return [
            ImageBoxes(
                boxes=self._boxes_M4 * np.array([i.width, i.height] * 2),
                labels=self._labels_M,
                scores=self._scores_M,
            )
            for i in images
        ]


def untrained(config: DetectorConfig, labels: Sequence[str], given: Published) -> Detector | None:
    """The published detector as it is, with the classes whose names are the dataset's.

    Returns:
        A detector of the dataset's classes whose scores for unknown ones are next to 0; None where no name
        agrees.
    """
    known = {name.lower(): index for index, name in enumerate(given.labels)}
    sources = [known.get(label.lower()) for label in labels]
    if all(source is None for source in sources):
        return None
    detector = Detector(config)
    state = dict(given.network.state_dict())
    for name in [name for name in state if name.startswith("head.cls_preds")]:
        rows = [
            state[name][source]
            if source is not None
            else torch.full_like(state[name][0], -20.0 if name.endswith("bias") else 0.0)
            for source in sources
        ]
        state[name] = torch.stack(rows)
    detector.network.load_state_dict(state)
    return detector.eval().requires_grad_(False)
