"""Where a point of the model's input lies in the image that the user gave.

Legend: N items; 2 = x, y; 4 = x1, y1, x2, y2; H height, W width of the original image; h, w of a mask.
Coordinates are continuous: pixel i spans i..i+1, its centre lies at i + 0.5, as image resizing has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xinfer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How one image was fitted into the model's input: `input = original * scale + offset`, by axis.

    Attributes:
        original_height: Pixels of the image that the user gave, upright.
        original_width: Likewise.
        height: Pixels of the model's input.
        width: Likewise.
        scale_x: Input pixels per original pixel.
        scale_y: Likewise.
        offset_x: Input pixels: the padding on the left, or minus what was cropped there.
        offset_y: Likewise at the top.
    """

    original_height: int
    original_width: int
    height: int
    width: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_original(self, boxes_N4: np.ndarray, *, clip: bool = True) -> np.ndarray:
        """Boxes of the model's input, in pixels of the original.

        Args:
            boxes_N4: x1, y1, x2, y2; further leading axes are kept.
            clip: Whether what lies outside the image is moved to its edge.

        Returns:
            float32, of the same shape.
        """
        boxes_N4 = np.asarray(boxes_N4)
        if boxes_N4.shape[-1:] != (4,):
            raise InputError(f"boxes must be [...,4], not {list(boxes_N4.shape)}", value=list(boxes_N4.shape))
        points = boxes_N4.reshape(*boxes_N4.shape[:-1], 2, 2)
        return self.points_to_original(points, clip=clip).reshape(boxes_N4.shape)

    def points_to_original(self, points_N2: np.ndarray, *, clip: bool = False) -> np.ndarray:
        """Points of the model's input, in pixels of the original. Arguments as in `to_original`."""
        points_N2 = np.asarray(points_N2)
        if points_N2.shape[-1:] != (2,):
            raise InputError(
                f"points must be [...,2], not {list(points_N2.shape)}", value=list(points_N2.shape)
            )
        found_N2 = (points_N2 - [self.offset_x, self.offset_y]) / [self.scale_x, self.scale_y]
        if clip:
            found_N2 = found_N2.clip(0, [self.original_width, self.original_height])
        return found_N2.astype(np.float32)

    def to_input(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Boxes of the original, in pixels of the model's input; the inverse of `to_original`."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return (np.asarray(boxes_N4) * scale + [self.offset_x, self.offset_y] * 2).astype(np.float32)

    def masks_to_original(
        self, masks_Nhw: np.ndarray, *, interpolation: str = "linear", outside: float = 0
    ) -> np.ndarray:
        """Masks over the model's input, at the original's size.

        Args:
            masks_Nhw: Masks that span the input, in its resolution or any other; further leading axes
                are kept, so [h,w] is fine.
            interpolation: "linear" for scores (float32 out), "nearest" for class numbers (type kept).
            outside: What stands where the model saw nothing, as at the sides of a cropped image.

        Returns:
            [N,H,W].
        """
        masks_Nhw = np.asarray(masks_Nhw)
        if masks_Nhw.ndim < 2 or 0 in masks_Nhw.shape[-2:]:
            raise InputError(
                f"masks must be [...,h,w], not {list(masks_Nhw.shape)}", value=list(masks_Nhw.shape)
            )
        if interpolation not in ("linear", "nearest"):
            raise InputError(f"{interpolation!r} is neither 'linear' nor 'nearest'", value=interpolation)
        h, w = masks_Nhw.shape[-2:]
        y_H, x_W, unseen_HW = self.mask_positions((h, w))
        if interpolation == "nearest":
            rows_H = np.floor(y_H).astype(int).clip(0, h - 1)
            columns_W = np.floor(x_W).astype(int).clip(0, w - 1)
            result = masks_Nhw[..., rows_H[:, None], columns_W]
        else:
            # Columns first: picking them out is the slow part, and there are few rows yet.
            result = interpolate(interpolate(masks_Nhw.astype(np.float32), x_W, axis=-1), y_H, axis=-2)
        if unseen_HW.any():
            result[..., unseen_HW] = outside
        return result

    def mask_positions(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the centres of the original's pixels lie in a mask of this height and width over the input.

        Returns:
            y [H] and x [W], in the mask's pixels; and bool [H,W], which pixels the model did not see.
        """
        # In the model's input first: 0..height and 0..width.
        y_H = (np.arange(self.original_height) + 0.5) * self.scale_y + self.offset_y
        x_W = (np.arange(self.original_width) + 0.5) * self.scale_x + self.offset_x
        unseen_HW = ((y_H < 0) | (y_H > self.height))[:, None] | ((x_W < 0) | (x_W > self.width))
        return y_H * size[0] / self.height, x_W * size[1] / self.width, unseen_HW


def interpolate(values: np.ndarray, positions: np.ndarray, *, axis: int) -> np.ndarray:
    """Values between the centres of pixels along an axis; beyond the outer centres the edge is repeated."""
    size = values.shape[axis]
    positions = (positions - 0.5).clip(0, size - 1)
    low = np.floor(positions).astype(int)
    share = (positions - low).astype(np.float32)
    if axis == -2:
        share = share[:, None]
    first = values.take(low, axis=axis)
    second = values.take(np.minimum(low + 1, size - 1), axis=axis)
    second -= first
    second *= share
    second += first
    return second
