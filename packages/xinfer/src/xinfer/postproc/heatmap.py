"""Score maps as pictures: brought to 0..1, to the image's size, coloured and laid over the image.

Legend: H, W of the image; h, w of the map. Needs OpenCV (extra "image").
"""

from __future__ import annotations

from typing import cast

import numpy as np

from xinfer._extras import require
from xinfer.errors import InputError

MAX_ALPHA = 0.6


def scale_heat(
    map_hw: np.ndarray, score_range: tuple[float, float], *, middle: float | None = None
) -> np.ndarray:
    """Scores as heat: 0 and 1 at the ends of the range, 0.5 at `middle`, linear between.

    Args:
        map_hw: Scores.
        score_range: Coldest and hottest score; beyond, heat stays at 0 or 1.
        middle: The score that is half hot, such as a threshold: one far outlier in the range would else leave
            everything else cold. None, or outside of the range: its middle.

    Returns:
        float32 of the map's shape, in 0..1.

    Raises:
        InputError: The range does not ascend.
    """
    low, high = score_range
    if not low < high:
        raise InputError(f"score_range must ascend, not {score_range}", value=score_range)
    if middle is None or not low < middle < high:
        middle = (low + high) / 2
    return np.interp(map_hw, (low, middle, high), (0, 0.5, 1)).astype(np.float32)


def resize_map(map_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map at another height and width, linear between centres; float32."""
    cv2 = require("cv2", "image")
    map_hw = np.ascontiguousarray(map_hw, np.float32)
    if map_hw.ndim != 2 or 0 in map_hw.shape:
        raise InputError(f"a map must be [h,w], not {list(map_hw.shape)}", value=list(map_hw.shape))
    return cast("np.ndarray", cv2.resize(map_hw, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def turbo(heat_hw: np.ndarray) -> np.ndarray:
    """Heat in 0..1 as colours, [h,w,3] uint8 RGB.

    Source: A. Mikhailov, "Turbo, An Improved Rainbow Colormap for Visualization", Google AI Blog, 2019
    (OpenCV's COLORMAP_TURBO).
    """
    cv2 = require("cv2", "image")
    levels_hw = np.round(np.clip(heat_hw, 0, 1) * 255).astype(np.uint8)
    return cast("np.ndarray", cv2.applyColorMap(levels_hw, cv2.COLORMAP_TURBO)[:, :, ::-1])


def overlay_heat(image_HW3: np.ndarray, heat_hw: np.ndarray, *, max_alpha: float = MAX_ALPHA) -> np.ndarray:
    """The image with heat laid over it, the hotter the less transparent.

    Args:
        image_HW3: uint8 RGB; stays as it is.
        heat_hw: In 0..1, of any size.
        max_alpha: Opacity at heat 1.

    Returns:
        [H,W,3] uint8 RGB.

    Raises:
        InputError: Not such an image or map.
    """
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
        raise InputError(
            f"the image must be [H,W,3] uint8, not {image_HW3.dtype} {list(image_HW3.shape)}",
            value=list(image_HW3.shape),
        )
    heat_HW = resize_map(heat_hw, (image_HW3.shape[0], image_HW3.shape[1])).clip(0, 1)
    alpha_HW1 = heat_HW[:, :, None] * np.float32(max_alpha)
    return np.round(image_HW3 * (1 - alpha_HW1) + turbo(heat_HW) * alpha_HW1).astype(np.uint8)


def outlines(map_HW: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Outlines int32 [n,2] (x, y) of the regions where a map reaches a threshold."""
    cv2 = require("cv2", "image")
    mask_HW = (np.asarray(map_HW) >= threshold).astype(np.uint8)
    found, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline[:, 0] for outline in found]
