"""How far away is it?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xinfer.postproc.heatmap import resize_map, turbo
from xinfer.preproc import Geometry
from xinfer.tasks import DepthEstimation
from xinfer.zoo.base import Outputs
from xinfer.zoo.images import Image, VisionRunner, read_pixels

_CLIP_PERCENT = (2, 98)


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Depth of each pixel.

    Attributes:
        values: float32 [H,W] of the image's own size; the task's `scale` says what they mean.
    """

    values: np.ndarray = field(repr=False, compare=False)
    task: DepthEstimation = field(repr=False)

    def nearness(self) -> np.ndarray:
        """[H,W] float32 in 0..1, 1 is nearest; the outer two percent at each end are cut."""
        near_HW = self.values if self.task.scale == "inverse-relative" else -self.values
        low, high = np.percentile(near_HW, _CLIP_PERCENT)
        span = high - low if high > low else 1.0
        return np.clip((near_HW - low) / span, 0, 1).astype(np.float32)

    def draw(self, image: Image) -> np.ndarray:
        """The depth in colours, [H,W,3] uint8 RGB of the image's size: red is near, blue is far."""
        height, width = read_pixels(image, min_side=self.task.input.min_side).shape[:2]
        return turbo(resize_map(self.nearness(), (height, width)))

    def to_json(self) -> dict[str, Any]:
        """Image size, what the values mean, their range and median."""
        height, width = self.values.shape
        return {
            "image": {"width": width, "height": height},
            "scale": self.task.scale,
            "min": float(self.values.min()),
            "median": float(np.median(self.values)),
            "max": float(self.values.max()),
        }


class DepthEstimator(VisionRunner[DepthEstimation, Depth]):
    """Estimates depth from one image."""

    SPEC = DepthEstimation

    def interpret(self, outputs: Outputs, context: Geometry) -> Depth:
        """The first image's depth, at the image's size."""
        depth_hw = outputs[self.task.outputs["depth"]][0]
        depth_hw = depth_hw.reshape(depth_hw.shape[-2:])
        return Depth(values=context.masks_to_original(depth_hw), task=self.task)
