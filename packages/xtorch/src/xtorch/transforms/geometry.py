"""Transforms that move pixels; boxes, masks and keypoints move with them.

Each is one affine matrix from old to new coordinates, and a way to fill the new pixels: whatever the
transform, points and boxes are moved by the same few lines. Resizing uses Pillow's triangle filter, which is
what exported graphs compute (`xtorch.models.resize`): training sees what serving sees.

Legend: H height, W width, C channels; N boxes; 4 = x1, y1, x2, y2; K keypoints. Continuous pixel coordinates.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from xtorch.errors import DataError, SettingsError
from xtorch.transforms.base import DrawnTransform, interval, probability, uniform
from xtorch.transforms.sample import ImageSample

MIN_VISIBLE = 0.1
"""A box of which less than this share of its area stays inside the image is dropped."""
PAD_LEVEL = 114
"""Grey level of padding, as YOLOX has it."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Where everything goes: new = matrix @ old, into an image of this size."""

    matrix_23: np.ndarray
    height: int
    width: int


def transform_points(points_K2: np.ndarray, matrix_23: np.ndarray) -> np.ndarray:
    """Points float32 [K,2] moved by an affine matrix [2,3]."""
    return (points_K2 @ matrix_23[:, :2].T + matrix_23[:, 2]).astype(np.float32)


def transform_boxes(boxes_N4: np.ndarray, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the moved boxes, cut off at the image's edge.

    Returns:
        float32 [N,4], and bool [N]: at least `MIN_VISIBLE` of the moved box lies in the image.
    """
    corners_N42 = boxes_N4[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved_N42 = transform_points(corners_N42.reshape(-1, 2), motion.matrix_23).reshape(-1, 4, 2)
    full_N4 = np.concatenate([moved_N42.min(axis=1), moved_N42.max(axis=1)], axis=1)
    cut_N4 = full_N4.clip(0, np.array([motion.width, motion.height] * 2, np.float32))
    full_N, cut_N = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (full_N4, cut_N4))
    return cut_N4.astype(np.float32), (cut_N > 0) & (cut_N >= MIN_VISIBLE * full_N)


def resize_pixels(
    pixels: np.ndarray,
    height: int,
    width: int,
    *,
    box: tuple[float, float, float, float] | None = None,
    nearest: bool = False,
) -> np.ndarray:
    """Resizes uint8 pixels.

    Args:
        pixels: uint8 [H,W,C] or [H,W].
        height, width: of the result.
        box: the part to take, x1, y1, x2, y2; None: all.
        nearest: no interpolation, for masks; else antialiased bilinear.

    Returns:
        uint8 [height,width,C] or [height,width].
    """
    if pixels.dtype != np.uint8:
        raise DataError(
            "Only uint8 pixels can be resized.", value=str(pixels.dtype), hint="put Normalise last"
        )
    if pixels.shape[:2] == (height, width) and box in (None, (0, 0, width, height)):
        return pixels
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    kernel = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    resized = np.asarray(Image.fromarray(flat).resize((width, height), kernel, box=box))
    return resized.reshape(height, width, *pixels.shape[2:])


class GeometricTransform(DrawnTransform[ImageSample]):
    """Moves pixels and all annotations by the same `Motion`."""

    @abstractmethod
    def motion(self, size: tuple[int, int], parameters: Mapping[str, Any]) -> Motion:
        """Where an image of this height and width goes."""

    @abstractmethod
    def pixels(
        self, pixels: np.ndarray, motion: Motion, parameters: Mapping[str, Any], *, mask: bool
    ) -> np.ndarray:
        """The new pixels of an image [H,W,C], or of a mask [H,W]."""

    def apply(self, sample: ImageSample, parameters: Mapping[str, Any]) -> ImageSample:
        motion = self.motion(sample.size, parameters)
        changes: dict[str, Any] = {"image_HWC": self.pixels(sample.image_HWC, motion, parameters, mask=False)}
        if sample.mask_HW is not None:
            changes["mask_HW"] = self.pixels(sample.mask_HW, motion, parameters, mask=True)
        if sample.boxes_N4 is not None and sample.labels_N is not None:
            boxes_N4, keep_N = transform_boxes(sample.boxes_N4, motion)
            changes |= {"boxes_N4": boxes_N4[keep_N], "labels_N": sample.labels_N[keep_N]}
        if sample.keypoints_K2 is not None and sample.visible_K is not None:
            points_K2 = transform_points(sample.keypoints_K2, motion.matrix_23)
            inside_K = ((points_K2 >= 0) & (points_K2 < [motion.width, motion.height])).all(axis=1)
            changes |= {"keypoints_K2": points_K2, "visible_K": sample.visible_K & inside_K}
        return replace(sample, **changes)


class _Flip(GeometricTransform):
    def __init__(self, p: float = 0.5, *, keypoint_order: Sequence[int] | None = None) -> None:
        self.p = probability("p", p)
        self.keypoint_order = None if keypoint_order is None else list(keypoint_order)
        if keypoint_order is not None and sorted(keypoint_order) != list(range(len(keypoint_order))):
            raise SettingsError("keypoint_order must name every keypoint once.", value=keypoint_order)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"flip": bool(rng.random() < self.p)}

    def apply(self, sample: ImageSample, parameters: Mapping[str, Any]) -> ImageSample:
        if not parameters["flip"]:
            return sample
        sample = super().apply(sample, parameters)
        if self.keypoint_order is None or sample.keypoints_K2 is None or sample.visible_K is None:
            return sample
        order = self.keypoint_order
        if len(order) != len(sample.keypoints_K2):
            raise DataError(f"keypoint_order is for {len(order)} keypoints.", value=len(sample.keypoints_K2))
        return replace(sample, keypoints_K2=sample.keypoints_K2[order], visible_K=sample.visible_K[order])


class HorizontalFlip(_Flip):
    """Mirrors left and right.

    Args:
        p: how likely.
        keypoint_order: for keypoints with a side, which old keypoint becomes which: the left eye's place in
            the list takes the right eye. None: each stays itself.
    """

    def motion(self, size: tuple[int, int], parameters: Mapping[str, Any]) -> Motion:  # noqa: ARG002
        height, width = size
        return Motion(matrix_23=_matrix((-1, 0, width), (0, 1, 0)), height=height, width=width)

    def pixels(
        self,
        pixels: np.ndarray,
        motion: Motion,  # noqa: ARG002
        parameters: Mapping[str, Any],  # noqa: ARG002
        *,
        mask: bool,  # noqa: ARG002
    ) -> np.ndarray:
        return np.ascontiguousarray(pixels[:, ::-1])


class VerticalFlip(_Flip):
    """Mirrors top and bottom. Arguments as in `HorizontalFlip`."""

    def motion(self, size: tuple[int, int], parameters: Mapping[str, Any]) -> Motion:  # noqa: ARG002
        height, width = size
        return Motion(matrix_23=_matrix((1, 0, 0), (0, -1, height)), height=height, width=width)

    def pixels(
        self,
        pixels: np.ndarray,
        motion: Motion,  # noqa: ARG002
        parameters: Mapping[str, Any],  # noqa: ARG002
        *,
        mask: bool,  # noqa: ARG002
    ) -> np.ndarray:
        return np.ascontiguousarray(pixels[::-1])


class Rotate90(GeometricTransform):
    """Turns by 0, 90, 180 or 270 degrees, counter-clockwise, each as likely. Height and width may swap."""

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {"quarters": int(rng.integers(4))}

    def motion(self, size: tuple[int, int], parameters: Mapping[str, Any]) -> Motion:
        height, width = size
        matrix_23 = (
            _matrix((1, 0, 0), (0, 1, 0)),
            _matrix((0, 1, 0), (-1, 0, width)),
            _matrix((-1, 0, width), (0, -1, height)),
            _matrix((0, -1, height), (1, 0, 0)),
        )[parameters["quarters"]]
        if parameters["quarters"] % 2:
            height, width = width, height
        return Motion(matrix_23=matrix_23, height=height, width=width)

    def pixels(
        self,
        pixels: np.ndarray,
        motion: Motion,  # noqa: ARG002
        parameters: Mapping[str, Any],
        *,
        mask: bool,  # noqa: ARG002
    ) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(pixels, parameters["quarters"]))


class Affine(GeometricTransform):
    """Rotates, scales, shears and shifts around the image's centre; the size stays.

    Args:
        degrees: the rotation lies in -degrees..degrees, clockwise.
        scale: least and most enlargement.
        shear_degrees: as `degrees`, along both axes.
        translate: the shift lies in -translate..translate of width and height.
        fill: grey level of what comes in from outside.
        mask_fill: class of what comes in from outside.
    """

    def __init__(
        self,
        *,
        degrees: float = 10.0,
        scale: tuple[float, float] = (0.8, 1.25),
        shear_degrees: float = 0.0,
        translate: float = 0.1,
        fill: int = PAD_LEVEL,
        mask_fill: int = 0,
    ) -> None:
        if not 0 <= shear_degrees < 60:
            raise SettingsError("shear_degrees must lie in 0..60.", value=shear_degrees)
        self.degrees = interval("degrees", (-degrees, degrees))
        self.scale = interval("scale", scale, least=1e-2, most=1e2)
        self.shear_degrees = (-float(shear_degrees), float(shear_degrees))
        self.translate = interval("translate", (-translate, translate), least=-1, most=1)
        self.fill, self.mask_fill = _level("fill", fill), _level("mask_fill", mask_fill)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {
            "degrees": uniform(rng, self.degrees),
            # Logarithmic: half and double are as likely as each other.
            "scale": math.exp(uniform(rng, (math.log(self.scale[0]), math.log(self.scale[1])))),
            "shear_degrees": [uniform(rng, self.shear_degrees) for _ in range(2)],
            "translate": [uniform(rng, self.translate) for _ in range(2)],
        }

    def motion(self, size: tuple[int, int], parameters: Mapping[str, Any]) -> Motion:
        height, width = size
        angle = math.radians(parameters["degrees"])
        shear_x, shear_y = (math.tan(math.radians(value)) for value in parameters["shear_degrees"])
        linear_22 = (
            parameters["scale"]
            * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            @ np.array([[1.0, shear_x], [shear_y, 1.0]])
        )
        centre_2 = np.array([width / 2, height / 2])
        shift_2 = centre_2 + np.array(parameters["translate"]) * [width, height] - linear_22 @ centre_2
        return Motion(
            matrix_23=np.concatenate([linear_22, shift_2[:, None]], axis=1), height=height, width=width
        )

    def pixels(
        self,
        pixels: np.ndarray,
        motion: Motion,
        parameters: Mapping[str, Any],  # noqa: ARG002
        *,
        mask: bool,
    ) -> np.ndarray:
        fill = self.mask_fill if mask else self.fill
        return warp(pixels, motion, fill=fill, nearest=mask)


def warp(pixels: np.ndarray, motion: Motion, *, fill: int, nearest: bool) -> np.ndarray:
    """Pixels [H,W,C] or [H,W] moved by any affine motion."""
    # OpenCV counts from the centre of the first pixel, we from its corner.
    matrix_23 = motion.matrix_23.astype(np.float64).copy()
    matrix_23[:, 2] += matrix_23[:, :2] @ [0.5, 0.5] - 0.5
    warped = cv2.warpAffine(
        pixels,
        matrix_23,
        (motion.width, motion.height),
        flags=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 3,
    )
    return warped.reshape(motion.height, motion.width, *pixels.shape[2:])


class _Cut(GeometricTransform):
    """Takes the part `box` (x, y, width, height) of the image and resizes it to `size`."""

    def motion(self, size: tuple[int, int], parameters: Mapping[str, Any]) -> Motion:  # noqa: ARG002
        x, y, box_width, box_height = parameters["box"]
        height, width = parameters["size"]
        scale_x, scale_y = width / box_width, height / box_height
        return Motion(
            matrix_23=_matrix((scale_x, 0, -x * scale_x), (0, scale_y, -y * scale_y)),
            height=height,
            width=width,
        )

    def pixels(
        self,
        pixels: np.ndarray,
        motion: Motion,
        parameters: Mapping[str, Any],
        *,
        mask: bool,
    ) -> np.ndarray:
        x, y, width, height = parameters["box"]
        box = (x, y, x + width, y + height)
        return resize_pixels(pixels, motion.height, motion.width, box=box, nearest=mask)


class Resize(_Cut):
    """Resizes to a height and a width; the aspect ratio is not kept."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = _side("height", height), _side("width", width)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        height, width = sample.size
        return {"box": [0, 0, width, height], "size": [self.height, self.width]}

    def apply(self, sample: ImageSample, parameters: Mapping[str, Any]) -> ImageSample:
        # Replayed on an image of another size, it still takes the whole image.
        height, width = sample.size
        return super().apply(sample, {**parameters, "box": [0, 0, width, height]})


class CenterCrop(_Cut):
    """The largest part of this aspect ratio in the image's middle, resized to `height` x `width`."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = _side("height", height), _side("width", width)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        height, width = sample.size
        scale = min(height / self.height, width / self.width)
        box_height, box_width = self.height * scale, self.width * scale
        return {
            "box": [(width - box_width) / 2, (height - box_height) / 2, box_width, box_height],
            "size": [self.height, self.width],
        }


class RandomResizedCrop(_Cut):
    """A part of random size and aspect ratio, resized to `height` x `width`.

    Args:
        height, width: of the result, in pixels.
        scale: least and most share of the image's area.
        ratio: least and most aspect ratio, width / height.

    Source: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), section 6; ten attempts and the
    fallback as in torchvision's `RandomResizedCrop`.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.height, self.width = _side("height", height), _side("width", width)
        self.scale = interval("scale", scale, least=1e-4, most=1)
        self.ratio = interval("ratio", ratio, least=1e-2, most=1e2)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:
        height, width = sample.size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * uniform(rng, self.scale)
            ratio = math.exp(uniform(rng, (low, high)))
            box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < box_width <= width and 0 < box_height <= height:
                x, y = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
                return {"box": [x, y, box_width, box_height], "size": [self.height, self.width]}
        box_width = max(1, min(width, round(height * self.ratio[1])))
        box_height = max(1, min(height, round(width / self.ratio[0])))
        x, y = (width - box_width) // 2, (height - box_height) // 2
        return {"box": [x, y, box_width, box_height], "size": [self.height, self.width]}


class Letterbox(GeometricTransform):
    """Resizes with the aspect ratio kept, and pads to `height` x `width`.

    Args:
        height, width: of the result, in pixels.
        position: where the image lies: "center", or "top-left" as YOLOX has it.
        fill: grey level of the padding.
        mask_fill: class of the padding.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        position: Literal["center", "top-left"] = "center",
        fill: int = PAD_LEVEL,
        mask_fill: int = 0,
    ) -> None:
        if position not in ("center", "top-left"):
            raise SettingsError("position must be 'center' or 'top-left'.", value=position)
        self.height, self.width = _side("height", height), _side("width", width)
        self.position = position
        self.fill, self.mask_fill = _level("fill", fill), _level("mask_fill", mask_fill)

    def draw(self, sample: ImageSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def motion(self, size: tuple[int, int], parameters: Mapping[str, Any]) -> Motion:  # noqa: ARG002
        x, y, width, height = self._place(size)
        return Motion(
            matrix_23=_matrix((width / size[1], 0, x), (0, height / size[0], y)),
            height=self.height,
            width=self.width,
        )

    def pixels(
        self,
        pixels: np.ndarray,
        motion: Motion,
        parameters: Mapping[str, Any],  # noqa: ARG002
        *,
        mask: bool,
    ) -> np.ndarray:
        x, y, width, height = self._place((pixels.shape[0], pixels.shape[1]))
        shape = (motion.height, motion.width, *pixels.shape[2:])
        result = np.full(shape, self.mask_fill if mask else self.fill, np.uint8)
        result[y : y + height, x : x + width] = resize_pixels(pixels, height, width, nearest=mask)
        return result

    def _place(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        scale = min(self.height / size[0], self.width / size[1])
        height = min(self.height, max(1, round(size[0] * scale)))
        width = min(self.width, max(1, round(size[1] * scale)))
        if self.position == "top-left":
            return 0, 0, width, height
        return (self.width - width) // 2, (self.height - height) // 2, width, height


def _matrix(row_x: tuple[float, float, float], row_y: tuple[float, float, float]) -> np.ndarray:
    return np.array([row_x, row_y], dtype=np.float64)


def _side(name: str, value: int) -> int:
    if value < 1:
        raise SettingsError(f"{name} must be at least 1 pixel.", value=value)
    return value


def _level(name: str, value: int) -> int:
    if not 0 <= value <= 255:
        raise SettingsError(f"{name} must lie in 0..255.", value=value)
    return value
