"""Which pixel shows what?

Legend: H, W of the image; h, w of the network's map; C labels.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xinfer._extras import require
from xinfer.postproc.masks import class_map
from xinfer.preproc import Geometry
from xinfer.tasks import SemanticSegmentation
from xinfer.zoo import drawing
from xinfer.zoo.base import Outputs
from xinfer.zoo.images import Image, VisionRunner, read_pixels


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The label of each pixel.

    Attributes:
        mask: uint8 [H,W] of the image's own size, into the task's labels.
    """

    mask: np.ndarray = field(repr=False, compare=False)
    task: SemanticSegmentation = field(repr=False)

    def shares(self) -> dict[str, float]:
        """Label -> its share of the image, the largest first, labels that do not occur left out."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.task.labels))
        order = np.argsort(-counts, kind="stable")
        return {self.task.labels[i]: float(counts[i] / self.mask.size) for i in order if counts[i]}

    def draw(self, image: Image) -> np.ndarray:
        """The image, [H,W,3] uint8 RGB, with each label's colour laid over it; the background stays."""
        cv2 = require("cv2", "image")
        pixels_HW3 = read_pixels(image, min_side=self.task.input.min_side)
        height, width = pixels_HW3.shape[:2]
        mask_HW = cv2.resize(self.mask, (width, height), interpolation=cv2.INTER_NEAREST)
        palette_C3 = np.array([drawing.colour(index) for index in range(len(self.task.labels))], np.uint8)
        shown_C = np.array([label != self.task.background for label in self.task.labels])
        return drawing.overlay(pixels_HW3, palette_C3[mask_HW], shown_C[mask_HW] * np.float32(0.5))

    def mask_png(self) -> bytes:
        """The mask as a grey PNG whose values are label numbers."""
        encoded, png = require("cv2", "image").imencode(".png", self.mask)
        assert encoded
        return bytes(png)

    def to_json(self) -> dict[str, Any]:
        """Image size, the labels' shares, and the mask as PNG."""
        height, width = self.mask.shape
        return {
            "image": {"width": width, "height": height},
            "labels": list(self.task.labels),
            "shares": self.shares(),
            "mask": {"media_type": "image/png", "data_base64": base64.b64encode(self.mask_png()).decode()},
        }


class Segmenter(VisionRunner[SemanticSegmentation, Segmentation]):
    """Labels each pixel."""

    SPEC = SemanticSegmentation

    def interpret(self, outputs: Outputs, context: Geometry) -> Segmentation:
        """The first image's mask: logits are scaled to the image, then the greatest wins."""
        task = self.task
        logits_Chw = outputs[task.outputs["logits"]][0]
        edge = task.threshold
        if task.values == "logits":
            # The threshold as a logit: a sigmoid for each pixel would cost more than some networks' heads.
            with np.errstate(divide="ignore"):
                edge = float(np.log(task.threshold) - np.log1p(-task.threshold))
        outside = 0 if task.background is None else task.labels.index(task.background)
        mask_HW = class_map(logits_Chw, context, threshold=edge, outside=outside)
        return Segmentation(mask=mask_HW.astype(np.uint8), task=task)
