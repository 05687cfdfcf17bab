"""Masks: from logits to classes at the image's size, as polygons and run lengths.

Legend: C classes, N instances; h, w of the model's map, H, W of the image. Polygons need OpenCV (extra
"image").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xinfer._extras import require
from xinfer.errors import InputError
from xinfer.preproc.geometry import Geometry, interpolate
from xinfer.preproc.image import MAX_SIDE

ROWS = 16
"""Of the image at once when classes are compared."""


def class_map(
    logits_Chw: np.ndarray, geometry: Geometry, *, threshold: float = 0.0, outside: int = 0
) -> np.ndarray:
    """Each pixel's class, at the image's size.

    Logits are interpolated and then compared, which draws smoother borders than the other way around.

    Args:
        logits_Chw: Scores over the model's input, in its resolution or any other. One channel tells
            classes 0 and 1 apart.
        geometry: How the image was fitted into the input.
        threshold: With one channel: class 1 from this score on.
        outside: The class where the model saw nothing.

    Returns:
        int64 [H,W].

    Raises:
        InputError: Not [C,h,w].
    """
    logits_Chw = np.asarray(logits_Chw)
    if logits_Chw.ndim != 3 or 0 in logits_Chw.shape:
        raise InputError(
            f"logits must be [C,h,w], not {list(logits_Chw.shape)}", value=list(logits_Chw.shape)
        )
    num_classes, h, w = logits_Chw.shape
    y_H, x_W, unseen_HW = geometry.mask_positions((h, w))
    columns_ChW = interpolate(logits_Chw.astype(np.float32), x_W, axis=-1)
    result_HW = np.zeros(unseen_HW.shape, np.int64)
    # A few rows at a time stay in the cache through all classes; a whole photograph would take gigabytes.
    for start in range(0, len(y_H), ROWS):
        rows = slice(start, start + ROWS)
        best_rW = interpolate(columns_ChW[0], y_H[rows], axis=-2)
        if num_classes == 1:
            result_HW[rows] = best_rW >= threshold
        for index in range(1, num_classes):
            scores_rW = interpolate(columns_ChW[index], y_H[rows], axis=-2)
            np.copyto(result_HW[rows], index, where=scores_rW > best_rW)
            np.maximum(best_rW, scores_rW, out=best_rW)
    result_HW[unseen_HW] = outside
    return result_HW


def crop_masks(masks_NHW: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
    """Instance masks without what lies outside of their boxes.

    Args:
        masks_NHW: Any type.
        boxes_N4: x1, y1, x2, y2 in the masks' pixels. A pixel is inside where its centre is.

    Returns:
        A copy with zeros outside.

    Source: D. Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019, section 3.3 ("Cropping").
    """
    masks_NHW, boxes_N4 = np.asarray(masks_NHW), np.asarray(boxes_N4)
    if masks_NHW.ndim != 3 or boxes_N4.shape != (len(masks_NHW), 4):
        raise InputError(
            f"masks [N,H,W] and boxes [N,4] do not fit: {list(masks_NHW.shape)}, {list(boxes_N4.shape)}",
            value=list(boxes_N4.shape),
        )
    y_H, x_W = np.arange(masks_NHW.shape[1]) + 0.5, np.arange(masks_NHW.shape[2]) + 0.5
    x1, y1, x2, y2 = (boxes_N4[:, index, None] for index in range(4))
    inside_NHW = ((y_H >= y1) & (y_H < y2))[:, :, None] & ((x_W >= x1) & (x_W < x2))[:, None, :]
    return np.where(inside_NHW, masks_NHW, np.zeros((), masks_NHW.dtype))


def paste_masks(
    masks_Nhw: np.ndarray, boxes_N4: np.ndarray, size: tuple[int, int], *, threshold: float = 0.5
) -> np.ndarray:
    """Masks that span their boxes, put where the boxes stand in the image.

    Args:
        masks_Nhw: Probabilities, as Mask R-CNN gives 28x28 of them per box.
        boxes_N4: x1, y1, x2, y2 in the image's pixels; parts outside of the image are cut off.
        size: Height and width of the image.
        threshold: A pixel belongs to the instance from this probability on.

    Returns:
        bool [N,H,W].

    Source: K. He et al., "Mask R-CNN", ICCV 2017, section 3.1 ("Inference").
    """
    masks_Nhw, boxes_N4 = np.asarray(masks_Nhw), np.asarray(boxes_N4, np.float64)
    if masks_Nhw.ndim != 3 or 0 in masks_Nhw.shape[1:] or boxes_N4.shape != (len(masks_Nhw), 4):
        raise InputError(
            f"masks [N,h,w] and boxes [N,4] do not fit: {list(masks_Nhw.shape)}, {list(boxes_N4.shape)}",
            value=list(boxes_N4.shape),
        )
    pasted_NHW = np.zeros((len(masks_Nhw), *size), bool)
    height, width = masks_Nhw.shape[1:]
    for mask_hw, (x1, y1, x2, y2), pasted_HW in zip(masks_Nhw, boxes_N4, pasted_NHW, strict=True):
        if not (x2 > x1 and y2 > y1):
            continue
        placed = Geometry(
            original_height=size[0], original_width=size[1], height=height, width=width,
            scale_x=width / (x2 - x1), scale_y=height / (y2 - y1),
            offset_x=-x1 * width / (x2 - x1), offset_y=-y1 * height / (y2 - y1),
        )  # fmt: skip
        pasted_HW[:] = placed.masks_to_original(mask_hw, outside=-np.inf) >= threshold
    return pasted_NHW


def mask_to_polygons(mask_HW: np.ndarray, *, tolerance: float = 0.0) -> list[np.ndarray]:
    """The outlines of a mask, outer ones and holes alike.

    Args:
        mask_HW: Anything not zero is inside.
        tolerance: Pixels by which an outline may be simplified.

    Returns:
        Polygons float32 [n,2], x and y of the outline's pixels, largest first; those of fewer than three
        points are left out.
    """
    cv2 = require("cv2", "image")
    mask_HW = np.ascontiguousarray(np.asarray(mask_HW) != 0, np.uint8)
    if mask_HW.ndim != 2:
        raise InputError(f"a mask must be [H,W], not {list(mask_HW.shape)}", value=list(mask_HW.shape))
    outlines, _ = cv2.findContours(mask_HW, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tolerance > 0:
        outlines = [cv2.approxPolyDP(outline, tolerance, True) for outline in outlines]
    polygons = [outline[:, 0].astype(np.float32) for outline in outlines if len(outline) > 2]
    return sorted(polygons, key=lambda polygon: -abs(cv2.contourArea(polygon)))


def polygons_to_mask(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Polygons as a mask: inside an odd number of them, or on an outline.

    Args:
        polygons: [n,2], x and y.
        size: Height and width.

    Returns:
        bool [H,W].
    """
    cv2 = require("cv2", "image")
    mask_HW = np.zeros(size, np.uint8)
    outlines = [np.round(polygon).astype(np.int32)[:, None] for polygon in polygons]
    if outlines:
        cv2.fillPoly(mask_HW, outlines, 1)
    return mask_HW.astype(bool)


def encode_rle(mask_HW: np.ndarray, *, compressed: bool = False) -> dict[str, Any]:
    """A mask as COCO's run lengths.

    Args:
        mask_HW: Anything not zero is inside.
        compressed: Whether `counts` becomes COCO's text instead of a list of numbers.

    Returns:
        `size` [H, W] and `counts`: lengths of runs of zeros and ones in turn, down the columns, zeros first.

    Source: COCO API, common/maskApi.h and maskApi.c (format description), T.-Y. Lin et al.
    """
    mask_HW = np.asarray(mask_HW) != 0
    if mask_HW.ndim != 2:
        raise InputError(f"a mask must be [H,W], not {list(mask_HW.shape)}", value=list(mask_HW.shape))
    flat = mask_HW.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts: list[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
    return {"size": list(mask_HW.shape), "counts": _pack(counts) if compressed else counts}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """COCO's run lengths as a mask.

    Args:
        rle: `size` [H, W] and `counts`, as a list or as COCO's text.

    Returns:
        bool [H,W].

    Raises:
        InputError: The runs do not fill the size, or the text is damaged.
    """
    try:
        (height, width), counts = rle["size"], rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("run lengths have 'size' [H, W] and 'counts'", value=rle) from error
    if isinstance(counts, str | bytes):
        counts = _unpack(counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts)
    if not all(isinstance(number, int) and number >= 0 for number in (height, width, *counts)):
        raise InputError("size and run lengths must be whole numbers", value=rle["size"])
    # Compared before anything is allocated: damaged counts may name any length.
    if height * width > MAX_SIDE**2:
        raise InputError(f"a mask of {height}x{width} is too large", value=(height, width))
    if sum(counts) != height * width:
        raise InputError(f"the runs sum to {sum(counts)}, not to {height}x{width}", value=sum(counts))
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(height, width, order="F")


def _pack(counts: list[int]) -> str:
    """Differences to the count two before, five bits at a time, low ones first, from '0' on."""
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            # The sign stands in bit 4 of the last group.
            done = value == (-1 if bits & 16 else 0)
            text.append(chr((bits if done else bits | 32) + 48))
            if done:
                break
    return "".join(text)


def _unpack(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InputError("the run lengths' text is damaged", value=char)
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise InputError("the run lengths' text ends within a number", value=text[-8:])
    return counts
