"""What is where in this image?

Legend: K candidates, N detections, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from xinfer.builders.preprocessing import YoloxHead
from xinfer.preproc import Geometry
from xinfer.tasks import ObjectDetection
from xinfer.zoo import drawing
from xinfer.zoo.base import Outputs
from xinfer.zoo.images import Image, VisionRunner, read_pixels


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One object: its label, score and box (left, top, right, bottom in the image's pixels)."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What a detector finds in one image, best first.

    Attributes:
        boxes: float32 [N,4]: left, top, right, bottom in the image's pixels.
        scores: float32 [N].
        classes: int64 [N], into the task's labels.
        image_size: Height and width of the image.
    """

    boxes: np.ndarray = field(compare=False)
    scores: np.ndarray = field(compare=False)
    classes: np.ndarray = field(compare=False)
    image_size: tuple[int, int]
    task: ObjectDetection = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Any:
        for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.classes, strict=True):
            yield Detection(label=self.task.labels[label], score=score, box=tuple(box))

    def draw(self, image: Image) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with boxes and captions."""
        drawn_HW3 = read_pixels(image, min_side=self.task.input.min_side)
        # The decoder may have scaled the image down.
        scale = np.tile(np.array(drawn_HW3.shape[1::-1]) / self.image_size[::-1], 2)
        for found, label in reversed(list(zip(self, self.classes, strict=True))):
            text = f"{found.label} {found.score:.2f}"
            drawn_HW3 = drawing.box(drawn_HW3, np.array(found.box) * scale, text, drawing.colour(int(label)))
        return drawn_HW3

    def to_json(self) -> dict[str, Any]:
        """Image size and detections."""
        return {
            "image": {"width": self.image_size[1], "height": self.image_size[0]},
            "detections": [
                {"label": found.label, "score": found.score, "box": list(found.box)} for found in self
            ],
        }


class ObjectDetector(VisionRunner[ObjectDetection, Detections]):
    """Finds objects."""

    SPEC = ObjectDetection
    HEADS: ClassVar = {"yolox": YoloxHead}

    def interpret(self, outputs: Outputs, context: Geometry) -> Detections:
        """The first image's detections, suppressed and in the image's pixels."""
        return interpret(self.task, outputs, context)


def interpret(
    task: ObjectDetection, outputs: Outputs, geometry: Geometry, *, score_threshold: float | None = None
) -> Detections:
    """Turns a detector's outputs into detections.

    Args:
        task: The engine's task.
        outputs: Boxes [1,K,4] and scores [1,K,C].
        geometry: The way back to the image's pixels.
        score_threshold: Instead of all of the task's; metrics want the weak ones too.

    Returns:
        The detections that stay, best first.
    """
    from xinfer.postproc.nms import nms

    boxes_K4 = outputs[task.outputs["boxes"]][0]
    scores_KC = outputs[task.outputs["scores"]][0]
    if score_threshold is None and task.class_thresholds:
        limits_C = np.array(task.class_thresholds, np.float32)
    else:
        limit = task.score_threshold if score_threshold is None else score_threshold
        limits_C = np.full(scores_KC.shape[1], limit, np.float32)
    # One label for each candidate: its best one, as YOLOX's own post-processing has it.
    classes_K = scores_KC.argmax(axis=1)
    best_K = np.take_along_axis(scores_KC, classes_K[:, None], axis=1)[:, 0]
    (candidates,) = np.nonzero(best_K >= limits_C[classes_K])
    boxes_K4, best_K, classes_K = boxes_K4[candidates], best_K[candidates], classes_K[candidates]
    kept = nms(
        boxes_K4,
        best_K,
        classes_K,
        iou_threshold=task.iou_threshold,
        score_threshold=float(limits_C.min()),
        max_detections=task.max_detections,
    )
    return Detections(
        boxes=geometry.to_original(boxes_K4[kept]),
        scores=best_K[kept].astype(np.float32),
        classes=classes_K[kept],
        image_size=(geometry.original_height, geometry.original_width),
        task=task,
    )
