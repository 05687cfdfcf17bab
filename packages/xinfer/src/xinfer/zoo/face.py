"""Where are the faces?

Legend: N faces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xinfer.postproc.boxes import decode_centerface
from xinfer.preproc import Geometry
from xinfer.tasks import FaceDetection
from xinfer.zoo import drawing
from xinfer.zoo.base import Outputs
from xinfer.zoo.images import Image, VisionRunner, read_pixels


@dataclass(frozen=True, kw_only=True)
class Faces:
    """The faces in one image, best first.

    Attributes:
        boxes: float32 [N,4]: left, top, right, bottom in the image's pixels.
        scores: float32 [N].
        landmarks: float32 [N,5,2]: x, y of the eyes, the nose and the corners of the mouth.
        image_size: Height and width of the image.
    """

    boxes: np.ndarray = field(compare=False)
    scores: np.ndarray = field(compare=False)
    landmarks: np.ndarray = field(compare=False)
    image_size: tuple[int, int]
    task: FaceDetection = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def draw(self, image: Image, *, blur: bool = False) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with boxes and landmarks, or with the faces made unrecognisable.

        Args:
            image: The same image as predicted.
            blur: Replace each face by a mosaic of eight cells in place of marking it.
        """
        drawn_HW3 = read_pixels(image, min_side=self.task.input.min_side)
        scale_2 = np.array(drawn_HW3.shape[1::-1]) / self.image_size[::-1]
        for box, score, landmarks in zip(self.boxes, self.scores, self.landmarks, strict=True):
            corners = box * np.tile(scale_2, 2)
            if blur:
                drawn_HW3 = _mosaic(drawn_HW3, corners)
            else:
                drawn_HW3 = drawing.box(drawn_HW3, corners, f"{score:.2f}", drawing.colour(0))
                drawn_HW3 = drawing.points(drawn_HW3, landmarks * scale_2, drawing.colour(2))
        return drawn_HW3

    def to_json(self) -> dict[str, Any]:
        """Image size and faces with their landmarks by name."""
        return {
            "image": {"width": self.image_size[1], "height": self.image_size[0]},
            "faces": [
                {
                    "score": score,
                    "box": box,
                    "landmarks": dict(zip(self.task.labels, landmarks, strict=True)),
                }
                for box, score, landmarks in zip(
                    self.boxes.tolist(), self.scores.tolist(), self.landmarks.tolist(), strict=True
                )
            ],
        }


class FaceDetector(VisionRunner[FaceDetection, Faces]):
    """Finds faces."""

    SPEC = FaceDetection

    def interpret(self, outputs: Outputs, context: Geometry) -> Faces:
        """The first image's faces."""
        task = self.task
        maps = {name: outputs[output][0] for name, output in task.outputs.items()}
        found = decode_centerface(
            maps["heatmap"][0],
            maps["scale"],
            maps["offset"],
            maps["landmarks"],
            stride=task.stride,
            score_threshold=task.score_threshold,
            iou_threshold=task.iou_threshold,
        )
        assert found.landmarks is not None
        return Faces(
            boxes=context.to_original(found.boxes),
            scores=found.scores,
            landmarks=context.points_to_original(found.landmarks, clip=True),
            image_size=(context.original_height, context.original_width),
            task=task,
        )


def _mosaic(image_HW3: np.ndarray, corners: np.ndarray, cells: int = 8) -> np.ndarray:
    left, top, right, bottom = (round(float(value)) for value in corners)
    part = image_HW3[top:bottom, left:right]
    if not part.size:
        return image_HW3
    rows = np.minimum(np.arange(part.shape[0]) * cells // part.shape[0], cells - 1)
    columns = np.minimum(np.arange(part.shape[1]) * cells // part.shape[1], cells - 1)
    cell_HW = rows[:, None] * cells + columns[None]
    counts = np.maximum(np.bincount(cell_HW.ravel(), minlength=cells * cells), 1)
    image_HW3 = image_HW3.copy()
    for channel in range(3):
        sums = np.bincount(cell_HW.ravel(), part[:, :, channel].ravel(), minlength=cells * cells)
        image_HW3[top:bottom, left:right, channel] = (sums / counts)[cell_HW]
    return image_HW3
