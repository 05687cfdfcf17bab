"""An image with everything that must stay in step with it.

Legend: H height, W width, C channels; N boxes; 4 = x1, y1, x2, y2; K keypoints; 2 = x, y.
Coordinates are continuous pixels: pixel i spans i..i+1, its centre lies at i + 0.5, as in `xinfer.preproc`.
"""

# ruff: noqa: N815  (shape suffixes)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xtorch.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSample:
    """An image and its annotations, any of which may be missing.

    Attributes:
        image_HWC: uint8 [H,W,C], C 1 or 3 (RGB); float32 after `Normalise`.
        boxes_N4: float32 [N,4], x1 <= x2 and y1 <= y2.
        labels_N: int64 [N], the boxes' classes; there if and only if there are boxes.
        mask_HW: uint8 [H,W], a class for every pixel.
        keypoints_K2: float32 [K,2]. Their order has a meaning, so none is ever dropped.
        visible_K: bool [K], False once a point has left the image; there if and only if there are keypoints.
        target: Anything else, handed through unchanged: a class, an id.

    Raises:
        DataError: shapes or types are others, or annotations do not fit the image.
    """

    image_HWC: np.ndarray
    boxes_N4: np.ndarray | None = None
    labels_N: np.ndarray | None = None
    mask_HW: np.ndarray | None = None
    keypoints_K2: np.ndarray | None = None
    visible_K: np.ndarray | None = None
    target: Any = None

    def __post_init__(self) -> None:
        image = self.image_HWC
        if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
            raise DataError("image_HWC must be [H,W,1] or [H,W,3].", value=list(image.shape))
        if image.dtype not in (np.uint8, np.float32):
            raise DataError("image_HWC must be uint8, or float32 once normalised.", value=str(image.dtype))
        self._vectors("boxes_N4", 4, "labels_N", np.int64)
        self._vectors("keypoints_K2", 2, "visible_K", np.bool_)
        mask = self.mask_HW
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != image.shape[:2]):
            raise DataError(
                f"mask_HW must be uint8 {list(image.shape[:2])}, as the image.",
                value=f"{mask.dtype} {list(mask.shape)}",
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image_HWC.shape[:2]
        return height, width

    def _vectors(self, name: str, width: int, partner: str, partner_type: type) -> None:
        vectors, values = getattr(self, name), getattr(self, partner)
        if vectors is None:
            if values is not None:
                raise DataError(f"{partner} without {name}.", value=partner)
            return
        vectors = np.asarray(vectors, dtype=np.float32).reshape(-1, width) if len(vectors) == 0 else vectors
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != width or not np.isfinite(vectors).all():
            raise DataError(f"{name} must be finite [N,{width}].", value=list(vectors.shape))
        if name == "boxes_N4" and (vectors[:, 2:] < vectors[:, :2]).any():
            raise DataError(
                "boxes_N4 must be x1, y1, x2, y2 with x1 <= x2, y1 <= y2.", value=vectors.tolist()
            )
        default = np.ones(len(vectors), np.bool_) if partner_type is np.bool_ else None
        values = default if values is None else np.asarray(values, dtype=partner_type)
        if values is None or values.shape != (len(vectors),):
            raise DataError(
                f"{name} of {len(vectors)} rows needs as many {partner}.",
                value=None if values is None else list(values.shape),
            )
        object.__setattr__(self, name, vectors)
        object.__setattr__(self, partner, values)
