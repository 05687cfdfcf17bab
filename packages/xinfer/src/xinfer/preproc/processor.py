"""Images into the model's input: decoded, resized, normalised and laid out in one pass.

Legend: B images, C = 3 channels, H height, W width of the model's input; h, w of the resized image in it.

The spec travels with the engine (`ImageProcessor.to_json`), resize kernel included: two kernels that are both
called bilinear change 5 % of a classifier's labels.

Normalising is a table: a pixel has 256 values, so `(pixel * scale - mean) / std` is worked out 256 times
per channel, in float64, and looked up. That is exact (the float32 nearest to the formula), the same on every
machine, and writes each channel once, where it belongs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from xinfer import schema
from xinfer._extras import require
from xinfer.errors import DocumentError, InputError
from xinfer.preproc.geometry import Geometry
from xinfer.preproc.image import MAX_SIDE, read_image

Image = bytes | np.ndarray | str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Where the resized image stands: its size, what is cut from it and where that goes."""

    resized: tuple[int, int]
    crop: tuple[int, int]
    """Top and left of the part that is used, in the resized image."""
    pad: tuple[int, int]
    """Top and left of that part in the model's input."""
    used: tuple[int, int]
    """Height and width of the part that is used."""


@dataclass(frozen=True)
class ImageProcessor:
    """Turns images into a model's input. Immutable and thread-safe.

    Attributes:
        size: [H, W] of the model's input, pixels; one number for a square.
        mode: "letterbox" keeps the shape and pads; "stretch" does not keep it; "crop" keeps it and cuts off
            what reaches over the sides.
        mean: Per channel, in the order of `color`; None: 0.
        std: Per channel, in the order of `color`; None: 1.
        scale: Multiplies the pixel before `mean` and `std`: `(pixel * scale - mean) / std`.
        color: Order of the channels.
        layout: Of the result, "NCHW" or "NHWC".
        dtype: "float32", normalised; "uint8", pixels as they are, for models that normalise inside.
        pad_value: The pixel value that letterboxing pads with.
        interpolation: OpenCV's kernels: "linear" (no anti-aliasing), "area" (averages when shrinking),
            "cubic".
        anchor: Where letterboxing puts the image: in the middle, or at the top left as YOLOX has it.
        crop_share: In crop mode, the part of the shorter side that is kept; 0.875 is the usual
            "resize to 256, crop 224".
        jpeg_scaling: Whether JPEGs may be decoded at half or quarter size where that is still large enough:
            faster, and smooth rather than aliased. Off for parity with chains that decode fully.

    Raises:
        InputError: A field is out of range.
    """

    size: tuple[int, int]
    _: dataclasses.KW_ONLY
    mode: Literal["letterbox", "stretch", "crop"] = "letterbox"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    scale: float = 1 / 255
    color: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "uint8"] = "float32"
    pad_value: int = 114
    interpolation: Literal["linear", "area", "cubic"] = "linear"
    anchor: Literal["center", "top-left"] = "center"
    crop_share: float = 1.0
    jpeg_scaling: bool = True

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        object.__setattr__(self, "size", size)
        if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in size):
            raise InputError(f"size must be two sides of 1..{MAX_SIDE} pixels, not {size}", value=size)
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise InputError(
                    f"{field} must be one of {', '.join(choices)}, not {getattr(self, field)!r}",
                    value=getattr(self, field),
                )
        for field in ("mean", "std"):
            numbers = getattr(self, field)
            if numbers is None:
                continue
            numbers = tuple(float(number) for number in numbers)
            object.__setattr__(self, field, numbers)
            if len(numbers) != 3 or not np.isfinite(numbers).all() or (field == "std" and 0.0 in numbers):
                raise InputError(f"{field} must be three usable numbers, not {numbers}", value=numbers)
        if not 0 <= self.pad_value <= 255:
            raise InputError(f"pad_value must lie in 0..255, not {self.pad_value}", value=self.pad_value)
        if not 0 < self.crop_share <= 1:
            raise InputError(f"crop_share must lie in 0..1, not {self.crop_share}", value=self.crop_share)
        if not np.isfinite(self.scale):
            raise InputError(f"scale must be a number, not {self.scale}", value=self.scale)

    @classmethod
    def from_json(cls, document: dict[str, Any] | str | bytes) -> ImageProcessor:
        """Reads what `to_json` gave, strictly.

        Args:
            document: The decoded document or its JSON text.

        Returns:
            The processor.

        Raises:
            DocumentError: Missing, unknown, mistyped or impossible fields.
        """
        if isinstance(document, str | bytes):
            data = document.encode() if isinstance(document, str) else document
            document = schema.loads(data, where="preprocessing")
        try:
            return schema.read(cls, document, where="preprocessing")
        except InputError as error:
            raise DocumentError(f"preprocessing: {error.message}", value=error.value) from error

    def to_json(self) -> dict[str, Any]:
        """The spec as a document for `from_json`."""
        document = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in document.items()}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array that one image becomes."""
        height, width = self.size
        return (1, 3, height, width) if self.layout == "NCHW" else (1, height, width, 3)

    def __call__(self, image: Image, *, out: np.ndarray | None = None) -> tuple[np.ndarray, Geometry]:
        """Prepares one image.

        Args:
            image: Encoded bytes, a path, or pixels [H,W,3] uint8 RGB.
            out: Array of the result's shape and type to write into; reusing one saves a megabyte-sized
                allocation per image.

        Returns:
            The model's input, a batch of one; and where it came from.

        Raises:
            ImageDecodeError: The image cannot be decoded.
            InputError: The pixels or `out` have the wrong shape or type.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        elif out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise InputError(
                f"out must be {self.dtype} {list(self.shape)}, contiguous, not {out.dtype} {list(out.shape)}",
                value=list(out.shape),
            )
        pixels_HW3, size = read_image(image, min_side_for=self._min_side)
        return out, self._fill(pixels_HW3, size, out[0])

    def batch(self, images: Sequence[Image]) -> tuple[np.ndarray, tuple[Geometry, ...]]:
        """Prepares several images.

        Args:
            images: As in calling the processor.

        Returns:
            The model's input, [B,3,H,W] or [B,H,W,3]; and where each came from.

        Raises:
            ImageDecodeError: An image cannot be decoded.
            InputError: Pixels have the wrong shape or type.
        """
        out = np.empty((len(images), *self.shape[1:]), self.dtype)
        geometries = tuple(
            self._fill(*read_image(image, min_side_for=self._min_side), out[index])
            for index, image in enumerate(images)
        )
        return out, geometries

    def _fill(self, pixels_HW3: np.ndarray, size: tuple[int, int], out: np.ndarray) -> Geometry:
        cv2 = require("cv2", "image")
        fit = self._fit(size)
        (h, w), (top, left), (crop_top, crop_left) = fit.used, fit.pad, fit.crop
        if pixels_HW3.shape[:2] != fit.resized:
            pixels_HW3 = cv2.resize(
                pixels_HW3,
                (fit.resized[1], fit.resized[0]),
                interpolation=getattr(cv2, f"INTER_{self.interpolation.upper()}"),
            )
        used_hw3 = pixels_HW3[crop_top : crop_top + h, crop_left : crop_left + w]
        if self.layout == "NCHW":
            planes = cv2.split(used_hw3)
            for index, plane in enumerate(planes if self.color == "RGB" else planes[::-1]):
                target = out[index, top : top + h, left : left + w]
                if self.dtype == "uint8":
                    target[:] = plane
                else:
                    cv2.LUT(plane, self.tables_3x256[index], dst=target)
                _pad(out[index], fit, self._pad_3[index])
        else:
            target = out[top : top + h, left : left + w]
            if self.color == "BGR":
                used_hw3 = cv2.cvtColor(np.ascontiguousarray(used_hw3), cv2.COLOR_RGB2BGR)
            if self.dtype == "uint8":
                target[:] = used_hw3
            else:
                cv2.LUT(used_hw3, np.ascontiguousarray(self.tables_3x256.T)[None], dst=target)
            _pad(out, fit, self._pad_3)
        height, width = size
        return Geometry(
            original_height=height,
            original_width=width,
            height=self.size[0],
            width=self.size[1],
            scale_x=fit.resized[1] / width,
            scale_y=fit.resized[0] / height,
            offset_x=float(left - crop_left),
            offset_y=float(top - crop_top),
        )

    def _fit(self, size: tuple[int, int]) -> _Fit:
        (height, width), (H, W) = size, self.size
        if self.mode == "stretch":
            return _Fit(resized=(H, W), crop=(0, 0), pad=(0, 0), used=(H, W))
        if self.mode == "crop":
            scale = max(H / height, W / width) / self.crop_share
            resized = max(H, round(height * scale)), max(W, round(width * scale))
            crop = (resized[0] - H) // 2, (resized[1] - W) // 2
            return _Fit(resized=resized, crop=crop, pad=(0, 0), used=(H, W))
        scale = min(H / height, W / width)
        h, w = max(1, min(H, round(height * scale))), max(1, min(W, round(width * scale)))
        pad = ((H - h) // 2, (W - w) // 2) if self.anchor == "center" else (0, 0)
        return _Fit(resized=(h, w), crop=(0, 0), pad=pad, used=(h, w))

    def _min_side(self, size: tuple[int, int]) -> int:
        """The shorter side below which decoding would lose what the resized image shows."""
        if not self.jpeg_scaling:
            return max(size)
        resized = self._fit(size).resized
        # Stretching needs the larger of the two factors, the others have one.
        factor = max(resized[0] / size[0], resized[1] / size[1])
        return min(max(size), int(np.ceil(min(size) * factor)))

    @cached_property
    def tables_3x256(self) -> np.ndarray:
        """What each pixel value becomes, by channel."""
        mean_31 = np.array(self.mean or (0, 0, 0), np.float64)[:, None]
        std_31 = np.array(self.std or (1, 1, 1), np.float64)[:, None]
        return ((np.arange(256) * self.scale - mean_31) / std_31).astype(np.float32)

    @cached_property
    def _pad_3(self) -> np.ndarray:
        if self.dtype == "uint8":
            return np.full(3, self.pad_value, np.uint8)
        return self.tables_3x256[:, self.pad_value].copy()


_CHOICES = {
    "mode": ("letterbox", "stretch", "crop"),
    "color": ("RGB", "BGR"),
    "layout": ("NCHW", "NHWC"),
    "dtype": ("float32", "uint8"),
    "interpolation": ("linear", "area", "cubic"),
    "anchor": ("center", "top-left"),
}


def _pad(out: np.ndarray, fit: _Fit, value: Any) -> None:
    """Fills what lies around the image; out is [H,W] or [H,W,3]."""
    (top, left), (h, w) = fit.pad, fit.used
    if (h, w) == out.shape[:2]:
        return
    out[:top] = value
    out[top + h :] = value
    out[top : top + h, :left] = value
    out[top : top + h, left + w :] = value
