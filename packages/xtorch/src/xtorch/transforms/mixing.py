"""One image made of several: mosaic and mixup of images with boxes.

Legend: N boxes; 4 = x1, y1, x2, y2. Continuous pixel coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xtorch.errors import DataError, SettingsError
from xtorch.transforms.base import interval, uniform
from xtorch.transforms.geometry import PAD_LEVEL, Motion, resize_pixels, transform_boxes
from xtorch.transforms.sample import ImageSample


class Mosaic:
    """Four images around a random point of one canvas; what overhangs is cut off.

    Args:
        height, width: of the canvas, in pixels. YOLOX uses twice the model's input and lets an `Affine` or
            `RandomResizedCrop` shrink it.
        center: where the four meet: least and most share of height and width.
        fill: grey level of what no image covers.
        mask_fill: its class, where all samples have masks.

    Source: Bochkovskiy et al., "YOLOv4" (2020), section 3.3; placement as in YOLOX's `MosaicDetection`.
    """

    num_samples = 4

    def __init__(
        self,
        height: int,
        width: int,
        *,
        center: tuple[float, float] = (0.25, 0.75),
        fill: int = PAD_LEVEL,
        mask_fill: int = 0,
    ) -> None:
        if min(height, width) < 2:
            raise SettingsError("The canvas must be at least 2 x 2 pixels.", value=(height, width))
        self.height, self.width = height, width
        self.center = interval("center", center, least=0, most=1)
        self.fill, self.mask_fill = fill, mask_fill

    def __call__(self, samples: Sequence[ImageSample], rng: np.random.Generator) -> ImageSample:
        """The canvas; `target` is the first sample's, keypoints are those of all in order.

        Raises:
            DataError: there are not four samples, or only some of them have masks (boxes, keypoints).
        """
        if len(samples) != self.num_samples:
            raise DataError("A mosaic needs four samples.", value=len(samples))
        center_y = min(self.height - 1, max(1, round(uniform(rng, self.center) * self.height)))
        center_x = min(self.width - 1, max(1, round(uniform(rng, self.center) * self.width)))
        channels = samples[0].image_HWC.shape[2]
        canvas_HWC = np.full((self.height, self.width, channels), self.fill, np.uint8)
        mask_HW = np.full((self.height, self.width), self.mask_fill, np.uint8)
        placed = []
        for quarter, sample in enumerate(samples):
            # Each image is as large as fits a half canvas, and touches the common point.
            scale = min(self.height / 2 / sample.size[0], self.width / 2 / sample.size[1])
            height, width = (max(1, round(side * scale)) for side in sample.size)
            left, top = quarter % 2 == 0, quarter < 2
            x, y = center_x - width * left, center_y - height * top
            x1, y1, x2, y2 = (
                max(0, x), max(0, y), min(self.width, x + width), min(self.height, y + height)
            )  # fmt: skip
            if x1 >= x2 or y1 >= y2:
                placed.append(_moved(sample, x, y, height, width, seen=(0, 0, 0, 0)))
                continue
            image_HWC = resize_pixels(sample.image_HWC, height, width)
            if image_HWC.shape[2] != channels:
                raise DataError("The samples of a mosaic must have the same channels.", value=channels)
            canvas_HWC[y1:y2, x1:x2] = image_HWC[y1 - y : y2 - y, x1 - x : x2 - x]
            if sample.mask_HW is not None:
                part_HW = resize_pixels(sample.mask_HW, height, width, nearest=True)
                mask_HW[y1:y2, x1:x2] = part_HW[y1 - y : y2 - y, x1 - x : x2 - x]
            placed.append(_moved(sample, x, y, height, width, seen=(x1, y1, x2, y2)))
        has_masks = _all_or_none(samples, "mask_HW")
        return replace(
            samples[0],
            image_HWC=canvas_HWC,
            mask_HW=mask_HW if has_masks else None,
            **_joined(placed),
        )


class MixUp:
    """Two images of one size blended; the boxes of both stay.

    Args:
        share: least and most share of the first image.

    Source: Zhang et al., "mixup" (ICLR 2018), section 2; for detection, Zhang et al., "Bag of Freebies for
    Training Object Detection Neural Networks" (2019), section 3.1.
    """

    num_samples = 2

    def __init__(self, share: tuple[float, float] = (0.5, 0.5)) -> None:
        self.share = interval("share", share, least=0, most=1)

    def __call__(self, samples: Sequence[ImageSample], rng: np.random.Generator) -> ImageSample:
        """The blend; the second image is resized to the first one's size. Masks cannot be blended.

        Raises:
            DataError: there are not two samples, or they have masks, or only one has boxes (keypoints).
        """
        if len(samples) != self.num_samples:
            raise DataError("A mixup needs two samples.", value=len(samples))
        if any(sample.mask_HW is not None for sample in samples):
            raise DataError("Masks cannot be blended.", value="mask_HW", hint="use Mosaic")
        first, second = samples
        height, width = first.size
        share = uniform(rng, self.share)
        second_HWC = resize_pixels(second.image_HWC, height, width)
        blend_HWC = np.rint(first.image_HWC * share + second_HWC * (1 - share)).astype(np.uint8)
        everything = (0, 0, width, height)
        parts = [_moved(sample, 0, 0, height, width, seen=everything) for sample in samples]
        return replace(first, image_HWC=blend_HWC, **_joined(parts))


def _moved(
    sample: ImageSample, x: int, y: int, height: int, width: int, *, seen: tuple[int, int, int, int]
) -> dict[str, np.ndarray | None]:
    """Annotations of an image resized to `height` x `width` and put at x, y, where only `seen` is shown."""
    scale_2 = np.array([width / sample.size[1], height / sample.size[0]], np.float32)
    x1, y1, x2, y2 = seen
    found: dict[str, np.ndarray | None] = dict.fromkeys(("boxes_N4", "labels_N", "keypoints_K2", "visible_K"))
    if sample.boxes_N4 is not None and sample.labels_N is not None:
        # In coordinates of what is seen, so that boxes are cut off at its edges; then moved to the canvas.
        matrix_23 = np.array([[scale_2[0], 0, x - x1], [0, scale_2[1], y - y1]], np.float64)
        motion = Motion(matrix_23=matrix_23, height=y2 - y1, width=x2 - x1)
        boxes_N4, keep_N = transform_boxes(sample.boxes_N4, motion)
        found["boxes_N4"] = boxes_N4[keep_N] + np.array([x1, y1, x1, y1], np.float32)
        found["labels_N"] = sample.labels_N[keep_N]
    if sample.keypoints_K2 is not None and sample.visible_K is not None:
        points_K2 = sample.keypoints_K2 * scale_2 + np.array([x, y], np.float32)
        inside_K = ((points_K2 >= [x1, y1]) & (points_K2 < [x2, y2])).all(axis=1)
        found |= {"keypoints_K2": points_K2, "visible_K": sample.visible_K & inside_K}
    return found


def _joined(parts: Sequence[dict[str, np.ndarray | None]]) -> dict[str, np.ndarray | None]:
    joined: dict[str, np.ndarray | None] = {}
    for name in parts[0]:
        arrays = [array for part in parts if (array := part[name]) is not None]
        if arrays and len(arrays) != len(parts):
            raise DataError(f"Only some of the samples have {name}.", value=name)
        joined[name] = np.concatenate(arrays) if arrays else None
    return joined


def _all_or_none(samples: Sequence[ImageSample], name: str) -> bool:
    num = sum(getattr(sample, name) is not None for sample in samples)
    if num not in (0, len(samples)):
        raise DataError(f"Only some of the samples have {name}.", value=name)
    return num > 0
