"""Where are the joints?

Legend: K keypoints; h, w of the maps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xinfer.preproc import Geometry
from xinfer.tasks import PoseEstimation
from xinfer.zoo import drawing
from xinfer.zoo.base import Outputs
from xinfer.zoo.images import Image, VisionRunner, read_pixels


@dataclass(frozen=True, kw_only=True)
class Pose:
    """The keypoints of one person (or hand, animal, ...).

    Attributes:
        keypoints: float32 [K,2]: x, y in the image's pixels, in the labels' order.
        scores: float32 [K]; below the task's threshold a keypoint is not seen.
        image_size: Height and width of the image.
    """

    keypoints: np.ndarray = field(compare=False)
    scores: np.ndarray = field(compare=False)
    image_size: tuple[int, int]
    task: PoseEstimation = field(repr=False)

    @property
    def seen(self) -> np.ndarray:
        """bool [K]: which keypoints reach the threshold."""
        return np.asarray(self.scores >= self.task.score_threshold)

    def draw(self, image: Image) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with the skeleton and the keypoints that are seen."""
        drawn_HW3 = read_pixels(image, min_side=self.task.input.min_side)
        points_K2 = self.keypoints * (np.array(drawn_HW3.shape[1::-1]) / self.image_size[::-1])
        for index, (start, end) in enumerate(self.task.skeleton):
            if self.seen[start] and self.seen[end]:
                colour = drawing.colour(index)
                drawn_HW3 = drawing.segment(drawn_HW3, points_K2[start], points_K2[end], colour)
        return drawing.points(drawn_HW3, points_K2[self.seen], (255, 255, 255))

    def to_json(self) -> dict[str, Any]:
        """Image size and all keypoints by name."""
        return {
            "image": {"width": self.image_size[1], "height": self.image_size[0]},
            "keypoints": {
                label: {"x": x, "y": y, "score": score, "seen": bool(seen)}
                for label, (x, y), score, seen in zip(
                    self.task.labels, self.keypoints.tolist(), self.scores.tolist(), self.seen, strict=True
                )
            },
        }


class PoseEstimator(VisionRunner[PoseEstimation, Pose]):
    """Finds the keypoints of the one person that an image shows."""

    SPEC = PoseEstimation

    def interpret(self, outputs: Outputs, context: Geometry) -> Pose:
        """The first image's keypoints."""
        maps_Khw = outputs[self.task.outputs["heatmaps"]][0].astype(np.float32)
        points_K2, scores_K = peaks(maps_Khw)
        scale = np.array([context.width / maps_Khw.shape[2], context.height / maps_Khw.shape[1]])
        return Pose(
            keypoints=context.points_to_original(points_K2 * scale, clip=True),
            scores=scores_K,
            image_size=(context.original_height, context.original_width),
            task=self.task,
        )


def peaks(maps_Khw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The greatest value of each map and where it lies.

    Args:
        maps_Khw: Heat maps.

    Returns:
        x, y in the map's pixels, continuous (a pixel's centre is at .5), moved a quarter of a pixel towards
        the greater neighbour along each axis, [K,2]; and the values, [K].

    Source: Newell et al., "Stacked Hourglass Networks for Human Pose Estimation" (ECCV 2016), section 3.3.
    """
    num, height, width = maps_Khw.shape
    flat_K = maps_Khw.reshape(num, -1).argmax(axis=1)
    rows_K, columns_K = np.divmod(flat_K, width)
    keys_K = np.arange(num)
    padded = np.pad(maps_Khw, ((0, 0), (1, 1), (1, 1)), mode="edge")
    step_x = padded[keys_K, rows_K + 1, columns_K + 2] - padded[keys_K, rows_K + 1, columns_K]
    step_y = padded[keys_K, rows_K + 2, columns_K + 1] - padded[keys_K, rows_K, columns_K + 1]
    # At the edge of the map there is no neighbour to lean to.
    inner_x = (columns_K > 0) & (columns_K < width - 1)
    inner_y = (rows_K > 0) & (rows_K < height - 1)
    x_K = columns_K + 0.5 + 0.25 * np.sign(step_x) * inner_x
    y_K = rows_K + 0.5 + 0.25 * np.sign(step_y) * inner_y
    return np.stack([x_K, y_K], axis=1), maps_Khw[keys_K, rows_K, columns_K]
