"""Drawing results onto images. Everything takes and returns [H,W,3] uint8 RGB; nothing changes its input."""

from __future__ import annotations

import colorsys

import numpy as np

from xinfer._extras import require

Colour = tuple[int, int, int]


def colour(index: int) -> Colour:
    """A colour for a class number, far from its neighbours' (golden-ratio steps around the hues)."""
    red, green, blue = colorsys.hsv_to_rgb((0.07 + index * 0.618033988749895) % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def line_width(image_HW3: np.ndarray) -> int:
    """A width that is seen at this size."""
    return max(1, round(min(image_HW3.shape[:2]) / 240))


def box(image_HW3: np.ndarray, corners: np.ndarray, text: str, rgb: Colour) -> np.ndarray:
    """A rectangle (left, top, right, bottom) with a caption."""
    cv2 = require("cv2", "image")
    image_HW3 = np.ascontiguousarray(image_HW3).copy()
    left, top, right, bottom = (round(float(value)) for value in corners)
    cv2.rectangle(image_HW3, (left, top), (right, bottom), rgb, line_width(image_HW3), cv2.LINE_AA)
    return caption(image_HW3, (left, top), text, rgb)


def polygon(image_HW3: np.ndarray, points_N2: np.ndarray, text: str, rgb: Colour) -> np.ndarray:
    """A closed outline with a caption at its first point."""
    cv2 = require("cv2", "image")
    image_HW3 = np.ascontiguousarray(image_HW3).copy()
    points = np.round(points_N2).astype(np.int32)
    cv2.polylines(image_HW3, [points], True, rgb, line_width(image_HW3), cv2.LINE_AA)
    return caption(image_HW3, (int(points[0, 0]), int(points[0, 1])), text, rgb)


def caption(image_HW3: np.ndarray, corner: tuple[int, int], text: str, rgb: Colour) -> np.ndarray:
    """Text on a filled bar above `corner`, or below where there is no room; OpenCV's font is ASCII only."""
    if not text:
        return image_HW3
    cv2 = require("cv2", "image")
    image_HW3 = np.ascontiguousarray(image_HW3).copy()
    text = text.encode("ascii", "replace").decode()
    scale = max(0.35, min(image_HW3.shape[:2]) / 900)
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale * 1.5))
    (width, height), baseline = cv2.getTextSize(text, font, scale, thickness)
    x, y = corner[0], corner[1] - baseline
    if y - height < 0:
        y = corner[1] + height + baseline
    # Dark letters on light colours.
    ink = (0, 0, 0) if np.dot(rgb, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
    cv2.rectangle(image_HW3, (x, y - height - 2), (x + width + 2, y + baseline), rgb, -1)
    cv2.putText(image_HW3, text, (x + 1, y), font, scale, ink, thickness, cv2.LINE_AA)
    return image_HW3


def points(image_HW3: np.ndarray, points_N2: np.ndarray, rgb: Colour) -> np.ndarray:
    """Filled dots."""
    cv2 = require("cv2", "image")
    image_HW3 = np.ascontiguousarray(image_HW3).copy()
    for x, y in points_N2:
        centre = (round(float(x)), round(float(y)))
        cv2.circle(image_HW3, centre, line_width(image_HW3) + 1, rgb, -1, cv2.LINE_AA)
    return image_HW3


def segment(image_HW3: np.ndarray, start_2: np.ndarray, end_2: np.ndarray, rgb: Colour) -> np.ndarray:
    """A line between two points."""
    cv2 = require("cv2", "image")
    image_HW3 = np.ascontiguousarray(image_HW3).copy()
    ends = [(round(float(x)), round(float(y))) for x, y in (start_2, end_2)]
    cv2.line(image_HW3, *ends, rgb, line_width(image_HW3), cv2.LINE_AA)
    return image_HW3


def overlay(image_HW3: np.ndarray, colours_HW3: np.ndarray, alpha_HW: np.ndarray | float = 0.5) -> np.ndarray:
    """Colours laid over the image; `alpha_HW` in 0..1."""
    alpha = np.asarray(alpha_HW, np.float32)
    if alpha.ndim == 2:
        alpha = alpha[:, :, None]
    return np.round(image_HW3 * (1 - alpha) + colours_HW3 * alpha).astype(np.uint8)
