"""Boxes: formats, overlaps, and what detectors' raw outputs mean.

Legend: B images, N boxes, C classes, P priors; H, W of a map of places; 4 = x1, y1, x2, y2 unless a name says
cxcywh (centre and size) or xywh (corner and size). All return float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xinfer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Objects found as peaks of a map, best first.

    Attributes:
        boxes: float32 [N,4], in pixels of the model's input.
        scores: float32 [N].
        labels: int64 [N].
        landmarks: float32 [N,L,2], x and y; None where the model has none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    landmarks: np.ndarray | None = None


def cxcywh_to_xyxy(boxes_N4: np.ndarray) -> np.ndarray:
    """Centre and size to corners."""
    boxes_N4 = _boxes(boxes_N4)
    half_N2 = boxes_N4[..., 2:] / 2
    return np.concatenate([boxes_N4[..., :2] - half_N2, boxes_N4[..., :2] + half_N2], axis=-1)


def xyxy_to_cxcywh(boxes_N4: np.ndarray) -> np.ndarray:
    """Corners to centre and size."""
    boxes_N4 = _boxes(boxes_N4)
    size_N2 = boxes_N4[..., 2:] - boxes_N4[..., :2]
    return np.concatenate([boxes_N4[..., :2] + size_N2 / 2, size_N2], axis=-1)


def xyxy_to_xywh(boxes_N4: np.ndarray) -> np.ndarray:
    """Corners to the top left corner and size, as COCO stores boxes."""
    boxes_N4 = _boxes(boxes_N4)
    return np.concatenate([boxes_N4[..., :2], boxes_N4[..., 2:] - boxes_N4[..., :2]], axis=-1)


def clip_boxes(boxes_N4: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What of the boxes lies inside an image of this height and width."""
    height, width = size
    return _boxes(boxes_N4).clip(0, np.array([width, height, width, height], np.float32))


def iou_matrix(a_N4: np.ndarray, b_M4: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of one set with every box of another.

    Args:
        a_N4: Corners.
        b_M4: Corners.

    Returns:
        float32 [N,M], 0 where both are empty.
    """
    a_N4, b_M4 = _boxes(a_N4), _boxes(b_M4)
    corner_NM2 = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    size_NM2 = (np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:]) - corner_NM2).clip(0)
    both_NM = size_NM2[..., 0] * size_NM2[..., 1]
    area_a = (a_N4[:, 2:] - a_N4[:, :2]).clip(0).prod(axis=1)
    area_b = (b_M4[:, 2:] - b_M4[:, :2]).clip(0).prod(axis=1)
    either_NM = area_a[:, None] + area_b - both_NM
    return np.divide(both_NM, either_NM, out=np.zeros_like(both_NM), where=either_NM > 0)


def decode_yolox(
    output_BNC: np.ndarray, size: tuple[int, int], *, strides: Sequence[int] = (8, 16, 32)
) -> tuple[np.ndarray, np.ndarray]:
    """YOLOX's raw output as boxes and scores.

    Args:
        output_BNC: [B,N,5+C]: centre offset in cells, log of the size in cells, objectness, class scores
            (both as probabilities); places of the finest map first, row by row.
        size: Height and width of the model's input.
        strides: Pixels per cell of each map.

    Returns:
        Boxes [B,N,4] in pixels of the input, and scores [B,N,C].

    Raises:
        InputError: The number of places does not fit the size.

    Source: Z. Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.1 (anchor-free head).
    """
    output_BNC = np.asarray(output_BNC, np.float32)
    corners, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        steps.append(np.full((rows.size, 1), stride))
    corner_N2 = np.concatenate(corners).astype(np.float32)
    step_N1 = np.concatenate(steps).astype(np.float32)
    if output_BNC.ndim != 3 or output_BNC.shape[1] != len(corner_N2) or output_BNC.shape[2] < 6:
        raise InputError(
            f"YOLOX at {size[0]}x{size[1]} gives [B,{len(corner_N2)},5+C], not {list(output_BNC.shape)}",
            value=list(output_BNC.shape),
        )
    centre_BN2 = (output_BNC[..., :2] + corner_N2) * step_N1
    size_BN2 = np.exp(output_BNC[..., 2:4]) * step_N1
    boxes_BN4 = cxcywh_to_xyxy(np.concatenate([centre_BN2, size_BN2], axis=-1))
    return boxes_BN4, output_BNC[..., 5:] * output_BNC[..., 4:5]


def decode_ssd(
    offsets_BP4: np.ndarray,
    priors_P4: np.ndarray,
    *,
    variances: tuple[float, float] = (0.1, 0.2),
    order: str = "xy",
) -> np.ndarray:
    """SSD's offsets from prior boxes as boxes, in the priors' unit.

    Args:
        offsets_BP4: Centre and size relative to the priors; [P,4] is fine.
        priors_P4: cxcywh.
        variances: What centre and size offsets were divided by in training.
        order: "xy", or "yx" as TensorFlow's detectors have it (offsets only: priors stay cxcywh).

    Returns:
        Corners, of the offsets' shape.

    Raises:
        InputError: Shapes do not fit.

    Source: W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2, equation 2.
    """
    offsets_BP4, priors_P4 = _boxes(offsets_BP4), _boxes(priors_P4)
    if priors_P4.ndim != 2 or offsets_BP4.shape[-2:] != priors_P4.shape:
        raise InputError(
            f"{list(offsets_BP4.shape)} offsets do not fit {list(priors_P4.shape)} priors",
            value=list(offsets_BP4.shape),
        )
    if order not in ("xy", "yx"):
        raise InputError(f"order must be 'xy' or 'yx', not {order!r}", value=order)
    if order == "yx":
        offsets_BP4 = offsets_BP4[..., [1, 0, 3, 2]]
    variance_centre, variance_size = np.float32(variances[0]), np.float32(variances[1])
    centre = priors_P4[:, :2] + offsets_BP4[..., :2] * variance_centre * priors_P4[:, 2:]
    size = priors_P4[:, 2:] * np.exp(offsets_BP4[..., 2:] * variance_size)
    return cxcywh_to_xyxy(np.concatenate([centre, size], axis=-1))


def decode_centernet(
    heat_CHW: np.ndarray,
    size_2HW: np.ndarray,
    offset_2HW: np.ndarray,
    *,
    stride: int = 4,
    score_threshold: float = 0.3,
    max_detections: int = 100,
) -> Peaks:
    """CenterNet's maps as objects: local maxima are objects, no suppression needed.

    Args:
        heat_CHW: Probability that an object of a class has its centre here.
        size_2HW: Width and height, in cells.
        offset_2HW: Of the centre in its cell, x and y.
        stride: Pixels per cell.
        score_threshold: Lower peaks are left out.
        max_detections: At most so many stay.

    Returns:
        The objects.

    Raises:
        InputError: Shapes do not fit.

    Source: X. Zhou et al., "Objects as Points", 2019, section 4.1 ("From points to bounding boxes").
    """
    heat_CHW, size_2HW, offset_2HW = (np.asarray(x, np.float32) for x in (heat_CHW, size_2HW, offset_2HW))
    _maps(heat_CHW, size_2HW, offset_2HW)
    padded = np.pad(heat_CHW, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).max(axis=(3, 4))
    labels_N, rows_N, columns_N = np.nonzero((heat_CHW >= around) & (heat_CHW >= score_threshold))
    scores_N = heat_CHW[labels_N, rows_N, columns_N]
    order = np.argsort(-scores_N, kind="stable")[:max_detections]
    labels_N, rows_N, columns_N, scores_N = labels_N[order], rows_N[order], columns_N[order], scores_N[order]
    centre_N2 = np.stack([columns_N, rows_N], axis=1) + offset_2HW[:, rows_N, columns_N].T
    boxes_N4 = cxcywh_to_xyxy(np.concatenate([centre_N2, size_2HW[:, rows_N, columns_N].T], axis=1))
    return Peaks(boxes=boxes_N4 * np.float32(stride), scores=scores_N, labels=labels_N)


def decode_centerface(
    heat_HW: np.ndarray,
    size_2HW: np.ndarray,
    offset_2HW: np.ndarray,
    landmarks_LHW: np.ndarray | None = None,
    *,
    stride: int = 4,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.3,
    max_detections: int = 300,
) -> Peaks:
    """CenterFace's maps as faces.

    Args:
        heat_HW: Probability that a face has its centre here.
        size_2HW: Log of height and width, in cells.
        offset_2HW: Of the centre in its cell, y and x.
        landmarks_LHW: Pairs of y and x from the top left corner, in parts of height and width.
        stride: Pixels per cell.
        score_threshold: Places with a lower score are left out.
        iou_threshold: As in `xinfer.postproc.nms`; neighbouring places show one face.
        max_detections: At most so many stay.

    Returns:
        The faces.

    Raises:
        InputError: Shapes do not fit.

    Source: Y. Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019,
    section 3.
    """
    from xinfer.postproc.nms import nms

    heat_HW, size_2HW, offset_2HW = (np.asarray(x, np.float32) for x in (heat_HW, size_2HW, offset_2HW))
    _maps(heat_HW[None], size_2HW, offset_2HW)
    rows_N, columns_N = np.nonzero(heat_HW >= score_threshold)
    scores_N = heat_HW[rows_N, columns_N]
    size_N2 = np.exp(size_2HW[:, rows_N, columns_N].T) * stride
    centre_N2 = (np.stack([rows_N, columns_N], axis=1) + offset_2HW[:, rows_N, columns_N].T + 0.5) * stride
    corner_N2 = centre_N2 - size_N2 / 2
    boxes_N4 = np.concatenate([corner_N2, corner_N2 + size_N2], axis=1)[:, [1, 0, 3, 2]].astype(np.float32)
    kept = nms(boxes_N4, scores_N, iou_threshold=iou_threshold, score_threshold=score_threshold,
               max_detections=max_detections)  # fmt: skip
    landmarks = None
    if landmarks_LHW is not None:
        parts_NL2 = np.asarray(landmarks_LHW, np.float32)[:, rows_N[kept], columns_N[kept]].T
        parts_NL2 = parts_NL2.reshape(len(kept), parts_NL2.shape[1] // 2, 2)
        points = parts_NL2 * size_N2[kept][:, None] + corner_N2[kept][:, None]
        landmarks = points[:, :, ::-1].astype(np.float32)
    return Peaks(
        boxes=boxes_N4[kept],
        scores=scores_N[kept],
        labels=np.zeros(len(kept), np.int64),
        landmarks=landmarks,
    )


def _boxes(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, np.float32)
    if boxes.shape[-1:] != (4,):
        raise InputError(f"boxes must be [...,4], not {list(boxes.shape)}", value=list(boxes.shape))
    return boxes


def _maps(heat: np.ndarray, size: np.ndarray, offset: np.ndarray) -> None:
    if heat.ndim != 3 or not size.shape == offset.shape == (2, *heat.shape[1:]):
        raise InputError(
            f"maps {list(heat.shape)}, {list(size.shape)} and {list(offset.shape)} do not fit each other",
            value=list(size.shape),
        )
