"""Images with boxes as training sees them: scaled once, kept in memory, augmented anew each time.

Shapes: H and W rows and columns of the network's input, h and w of an image scaled into it, M objects; boxes
are left, top, right, bottom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from xtorch.models.detector import PAD_VALUE, Letterbox
from xtorch.tasks.images import read_pixels

CACHE_BYTES = 1 << 30
"""Scaled images are kept up to this; further ones are decoded again each time."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image and what is in it.

    Attributes:
        path: relative to the dataset's root.
        boxes: float64 [M,4], as fractions of the upright image's width and height.
        labels: int64 [M].
    """

    path: str
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the network is shown: uint8 RGB [H,W,3], boxes float32 [M,4] in its pixels, labels int64 [M]."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images vary.

    Attributes:
        mosaic: share of scenes that are made of four images.
        mosaic_scale: their zoom, uniform between these.
        scale: zoom of scenes of one image.
        shift: of scenes of one image, as a share of the input's size, either way.
        hue, saturation, value: largest change of OpenCV's 8-bit HSV, either way.
        flip: chance of being mirrored left to right.
        flip_vertical: chance of being mirrored upside down.
        min_visible: an object of which less than this share of the area stays in the scene is left out.

    Source: Bochkovskiy et al., "YOLOv4" (arXiv:2004.10934), section 3.3 (mosaic); the YOLOX paper, section
    2.1 ("Strong data augmentation"), which leaves MixUp out for its small models; HSV gains are its code's.
    """

    mosaic: float = 0.5
    mosaic_scale: tuple[float, float] = (0.5, 1.5)
    scale: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    hue: int = 5
    saturation: int = 30
    value: int = 30
    flip: float = 0.5
    flip_vertical: float = 0.0
    min_visible: float = 0.3

    def gentle(self) -> Augmentation:
        """For the last epochs: no mosaic, as in the YOLOX paper."""
        return replace(self, mosaic=0.0)


class Scaled(NamedTuple):
    """An image at the size at which the network sees it, without padding.

    The last row and column may be covered in part: width and height are exact, pixels uint8 [h,w,3] are what
    is covered whole.
    """

    pixels: np.ndarray
    width: float
    height: float


class TrainingImages:
    """Scaled images of a dataset, and scenes made of them.

    Args:
        root: the dataset's folder.
        samples: N.
        size: (H, W) of the network's input.
        cache_bytes: memory that scaled images may take.
    """

    def __init__(
        self, root: Path, samples: Sequence[Sample], size: tuple[int, int], *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._root, self._samples, self.size = root, samples, size
        self._letterbox = Letterbox(size)
        self._kept: dict[int, Scaled] = {}
        self._left_bytes = cache_bytes

    def __len__(self) -> int:
        return len(self._samples)

    def image(self, index: int) -> Scaled:
        """One image scaled into the input by the kernel of the engine."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        pixels_HW3 = read_pixels(self._root, self._samples[index].path, min(self.size))
        with torch.inference_mode():
            x_13HW, per_pixel = self._letterbox(torch.from_numpy(pixels_HW3)[None])
        height, width = (side / float(per_pixel) for side in pixels_HW3.shape[:2])
        h, w = (max(1, int(side + 1e-3)) for side in (height, width))
        small_hw3 = x_13HW[0, :, :h, :w].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
        scaled = Scaled(np.ascontiguousarray(small_hw3.numpy()), width, height)
        if self._left_bytes >= scaled.pixels.nbytes:
            self._left_bytes -= scaled.pixels.nbytes
            self._kept[index] = scaled
        return scaled

    def plain(self, index: int) -> Scene:
        """One image as the engine will see it."""
        return self._single(index, self.image(index), 1.0, (0.0, 0.0), min_visible=0.0)

    def scene(self, index: int, augmentation: Augmentation, rng: np.random.Generator) -> Scene:
        """An augmented scene around one image; `rng` decides everything about it."""
        if rng.random() < augmentation.mosaic:
            scene = self._mosaic(index, augmentation, rng)
        else:
            scaled = self.image(index)
            zoom = rng.uniform(*augmentation.scale)
            shift = rng.uniform(-augmentation.shift, augmentation.shift, 2)
            # The middle of the image stays in the middle, but for the shift.
            x = scaled.width * (1 - zoom) / 2 + shift[0] * self.size[1]
            y = scaled.height * (1 - zoom) / 2 + shift[1] * self.size[0]
            scene = self._single(index, scaled, zoom, (x, y), min_visible=augmentation.min_visible)
        if rng.random() < augmentation.flip:
            scene = mirrored(scene)
        if rng.random() < augmentation.flip_vertical:
            scene = upside_down(scene)
        return replace(scene, image=shifted_colours(scene.image, augmentation, rng))

    def batches(
        self, indices: Sequence[int], batch_size: int, augmentation: Augmentation, *, seed: Sequence[int]
    ) -> Iterator[list[Scene]]:
        """Scenes around these images, each decided by `seed` and its place alone.

        Batches are of about the same size, at most `batch_size`: the statistics of a last one of a single
        image would say little.
        """
        for places in np.array_split(np.arange(len(indices)), math.ceil(len(indices) / batch_size)):
            yield [
                self.scene(int(indices[place]), augmentation, np.random.default_rng([*seed, place]))
                for place in places.tolist()
            ]

    # ------------------------------------------------------------------------------------- one scene

    def _single(
        self, index: int, scaled: Scaled, zoom: float, offset: tuple[float, float], *, min_visible: float
    ) -> Scene:
        canvas_HW3 = self._canvas()
        self._paint(canvas_HW3, scaled, zoom, offset)
        boxes_M4, labels_M = self._placed(index, scaled, zoom, offset, min_visible)
        return Scene(image=canvas_HW3, boxes=boxes_M4, labels=labels_M)

    def _mosaic(self, index: int, augmentation: Augmentation, rng: np.random.Generator) -> Scene:
        """Four images around a point, each in its corner, at one zoom."""
        H, W = self.size
        zoom = rng.uniform(*augmentation.mosaic_scale)
        x, y = rng.uniform(0.25, 0.75) * W, rng.uniform(0.25, 0.75) * H
        others = rng.integers(0, len(self), 3)
        canvas_HW3 = self._canvas()
        boxes, labels = [], []
        for corner, picked in enumerate(rng.permutation([index, *others]).tolist()):
            scaled = self.image(picked)
            offset = (
                x - zoom * scaled.width if corner % 2 == 0 else x,
                y - zoom * scaled.height if corner < 2 else y,
            )
            self._paint(canvas_HW3, scaled, zoom, offset)
            boxes_M4, labels_M = self._placed(picked, scaled, zoom, offset, augmentation.min_visible)
            boxes.append(boxes_M4)
            labels.append(labels_M)
        return Scene(image=canvas_HW3, boxes=np.concatenate(boxes), labels=np.concatenate(labels))

    def _canvas(self) -> np.ndarray:
        return np.full((*self.size, 3), PAD_VALUE, np.uint8)

    def _paint(
        self, canvas_HW3: np.ndarray, scaled: Scaled, zoom: float, offset: tuple[float, float]
    ) -> None:
        """Draw an image, zoomed from its top left corner, at an offset (x, y)."""
        # OpenCV puts pixel centres at whole numbers; ours lie at halves.
        half = (zoom - 1) / 2
        matrix = np.array([[zoom, 0, offset[0] + half], [0, zoom, offset[1] + half]])
        cv2.warpAffine(
            scaled.pixels,
            matrix,
            (self.size[1], self.size[0]),
            dst=canvas_HW3,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_TRANSPARENT,
        )

    def _placed(
        self, index: int, scaled: Scaled, zoom: float, offset: tuple[float, float], min_visible: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [M,4] and labels of what is still visible of an image after `_paint`."""
        sample = self._samples[index]
        size = np.array([scaled.width, scaled.height] * 2)
        placed_M4 = sample.boxes * size * zoom + np.array([*offset, *offset])
        H, W = self.size
        inside_M4 = placed_M4.clip(0, np.array([W, H, W, H]))
        before_M2, after_M2 = placed_M4[:, 2:] - placed_M4[:, :2], inside_M4[:, 2:] - inside_M4[:, :2]
        share_M = after_M2.prod(axis=1) / np.maximum(before_M2.prod(axis=1), 1e-9)
        stays_M = (share_M >= min_visible) & (after_M2.min(axis=1, initial=np.inf) >= 1)
        return inside_M4[stays_M].astype(np.float32), sample.labels[stays_M]


def mirrored(scene: Scene) -> Scene:
    """Left to right."""
    width = scene.image.shape[1]
    boxes_M4 = scene.boxes.copy()
    boxes_M4[:, [0, 2]] = width - scene.boxes[:, [2, 0]]
    return replace(scene, image=np.ascontiguousarray(scene.image[:, ::-1]), boxes=boxes_M4)


def upside_down(scene: Scene) -> Scene:
    """Mirrored top to bottom."""
    height = scene.image.shape[0]
    boxes_M4 = scene.boxes.copy()
    boxes_M4[:, [1, 3]] = height - scene.boxes[:, [3, 1]]
    return replace(scene, image=np.ascontiguousarray(scene.image[::-1]), boxes=boxes_M4)


def shifted_colours(
    image_HW3: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """An image with hue, saturation and value changed by amounts drawn from `rng`."""
    gains = np.array([augmentation.hue, augmentation.saturation, augmentation.value])
    change = (rng.uniform(-1, 1, 3) * gains).round().astype(np.int16)
    if not change.any():
        return image_HW3
    hsv = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2HSV).astype(np.int16) + change
    hsv[..., 0] %= 180
    return cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
