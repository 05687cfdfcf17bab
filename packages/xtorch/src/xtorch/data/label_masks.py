"""Masks whose values name classes: reading them, and turning values into class numbers.

A mask's codes are its grey values, the indices of its palette, or its colours as 0xRRGGBB. Which code is
which class is said by a `MaskLegend`, made once for a dataset (`xtorch.data.mask_classes`).

Shapes: H and W rows and columns.
"""

# ruff: noqa: N815  (shape suffixes)

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from xtorch.data.images import MAX_PIXELS
from xtorch.errors import DataError

Kind = Literal["value", "index", "colour"]
IGNORED = 255
"""Class number of pixels that are neither learned nor counted."""
MAX_ASPECT_CHANGE = 0.02
"""A mask may be scaled, but its shape is the image's up to this share."""
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")
_MAX_VALUE = 0xFFFF
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True, eq=False)
class RawMask:
    """A mask as its file has it.

    Attributes:
        codes_HW: int32 [H,W]: grey values 0..65535, indices 0..255, or colours 0xRRGGBB.
        palette: Of indices: the colour 0xRRGGBB of each.
    """

    codes_HW: np.ndarray
    kind: Kind
    palette: tuple[int, ...] = ()

    def coloured(self) -> RawMask:
        """The same with colours for codes."""
        if self.kind == "colour":
            return self
        if self.kind == "value":
            grey_HW = self.codes_HW if self.codes_HW.max(initial=0) <= 255 else self.codes_HW >> 8
            return RawMask(codes_HW=grey_HW * 0x010101, kind="colour")
        table = np.zeros(256, np.int32)
        table[: len(self.palette)] = self.palette
        return RawMask(codes_HW=table[self.codes_HW], kind="colour")

    def as_kind(self, kind: Kind) -> RawMask:
        """With codes of a legend's kind; indices and grey values stand for each other.

        Raises:
            DataError: Colours are no values.
        """
        if kind != "colour" and self.kind == "colour":
            raise DataError("The mask is coloured, the dataset's other masks are not.", value=self.kind)
        return self.coloured() if kind == "colour" else self


def read_raw_mask(path: Path) -> RawMask:
    """Reads a mask of any colour mode and depth; of an animation the first frame, upright.

    Colours with equal parts are grey values. What is fully transparent has the code 0; where nothing but the
    transparency varies, it is the mask.

    Raises:
        DataError: It cannot be read, or has floating-point values that are no whole numbers.
    """
    try:
        return decode_raw_mask(path.read_bytes())
    except OSError as error:
        raise DataError(f"The mask cannot be read: {error.strerror}.", value=path.name) from error


def decode_raw_mask(data: bytes) -> RawMask:
    """`read_raw_mask` of a file's content."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise DataError(
                    "The mask is too large.", value=opened.size, hint=f"at most {MAX_PIXELS} pixels"
                )
            opened.load()
            image = ImageOps.exif_transpose(opened) if _is_turned(opened) else opened
            return _raw(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise DataError(
            f"The mask cannot be read: {error}", value=len(data), hint="save it again as PNG"
        ) from error


def _is_turned(image: Image.Image) -> bool:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1)) > 1
    except Exception:
        # EXIF is a hint and often damaged; a file without a readable one is upright.
        return False


def _raw(image: Image.Image) -> RawMask:
    if image.mode == "P":
        colours = np.array(image.getpalette("RGB") or [], np.int32).reshape(-1, 3)
        palette = tuple((colours @ np.array([0x10000, 0x100, 1])).tolist())
        return RawMask(codes_HW=np.asarray(image, np.int32), kind="index", palette=palette)
    if image.mode in ("1", "L"):
        return RawMask(codes_HW=np.asarray(image, np.int32), kind="value")
    if image.mode.startswith(("I", "F")):
        values_HW = np.asarray(image, np.float64)
        if not np.isfinite(values_HW).all() or (values_HW % 1).any():
            raise DataError(
                "The mask has values that are no whole numbers.",
                value=image.mode,
                hint="save class numbers as 8 or 16 bits",
            )
        if values_HW.min(initial=0) < 0 or values_HW.max(initial=0) > _MAX_VALUE:
            raise DataError("The mask has values beyond 16 bits.", value=float(values_HW.max()))
        return RawMask(codes_HW=values_HW.astype(np.int32), kind="value")
    rgb_HW3 = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"), np.int32)
    if rgb_HW3.shape[2] == 4:
        alpha_HW, rgb_HW3 = rgb_HW3[..., 3], rgb_HW3[..., :3]
        if (rgb_HW3 == rgb_HW3[0, 0]).all() and alpha_HW.min() < alpha_HW.max():
            return RawMask(codes_HW=alpha_HW, kind="value")
        if alpha_HW.any():
            rgb_HW3 = np.where(alpha_HW[..., None] > 0, rgb_HW3, 0)
    if (rgb_HW3[..., 0] == rgb_HW3[..., 1]).all() and (rgb_HW3[..., 1] == rgb_HW3[..., 2]).all():
        return RawMask(codes_HW=rgb_HW3[..., 0].copy(), kind="value")
    return RawMask(codes_HW=rgb_HW3 @ np.array([0x10000, 0x100, 1], np.int32), kind="colour")


@dataclass(frozen=True, kw_only=True)
class MaskLegend:
    """Which code is which class.

    Attributes:
        classes: Code -> class number; `IGNORED` for what is neither learned nor counted.
        snap: Whether other codes are blurred edges: each becomes the class of the nearest code. Else they
            are ignored.
    """

    kind: Kind
    classes: Mapping[int, int]
    snap: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For ``model.json``."""
        return {
            "kind": self.kind,
            "classes": [[code, number] for code, number in sorted(self.classes.items())],
            "snap": self.snap,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> MaskLegend:
        """
        Raises:
            KeyError, TypeError, ValueError: It is no such document.
        """
        classes = {int(code): int(number) for code, number in document["classes"]}
        return cls(kind=document["kind"], classes=classes, snap=bool(document["snap"]))

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """The class number of each code, uint8 of their shape."""
        if self.kind == "colour":
            distinct, places = np.unique(codes, return_inverse=True)
            return self._looked_up(distinct)[places.reshape(codes.shape)]
        table = self._looked_up(np.arange(int(codes.max(initial=0)) + 1))
        return table[codes]

    def _looked_up(self, codes_N: np.ndarray) -> np.ndarray:
        known_K = np.array(sorted(self.classes), np.int64)
        numbers_K = np.array([self.classes[int(code)] for code in known_K], np.uint8)
        nearest_N = nearest_code(codes_N, known_K, self.kind)[0]
        found_N = numbers_K[nearest_N]
        return found_N if self.snap else np.where(known_K[nearest_N] == codes_N, found_N, np.uint8(IGNORED))

    def read(self, path: Path) -> np.ndarray:
        """A mask's file as class numbers, uint8 [H,W].

        Raises:
            DataError: It cannot be read.
        """
        return self.numbers(read_raw_mask(path).as_kind(self.kind).codes_HW)


def nearest_code(codes_N: np.ndarray, known_K: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """For each code the nearest known one.

    Returns:
        Its place in `known_K`, int64 [N]; and how far away it is, int64 [N]: the difference of values, or
        the greatest difference of a colour's parts.
    """
    if kind == "colour":
        codes_N3, known_K3 = _parts(codes_N), _parts(known_K)
    else:
        codes_N3, known_K3 = codes_N[:, None].astype(np.int64), known_K[:, None].astype(np.int64)
    best_N = np.zeros(len(codes_N), np.int64)
    far_N = np.full(len(codes_N), np.iinfo(np.int64).max)
    for place, known_3 in enumerate(known_K3):
        distance_N = np.abs(codes_N3 - known_3).max(axis=1)
        closer_N = distance_N < far_N
        best_N[closer_N], far_N[closer_N] = place, distance_N[closer_N]
    return best_N, far_N


def _parts(codes_N: np.ndarray) -> np.ndarray:
    """Red, green and blue of colours, int64 [N,3]."""
    codes_N = codes_N.astype(np.int64)
    return np.stack([codes_N >> 16, (codes_N >> 8) & 0xFF, codes_N & 0xFF], axis=1)


def upright_mask(
    labels_HW: np.ndarray, *, width: int, height: int, orientation: int = 1
) -> np.ndarray | None:
    """A mask in the direction of its upright image; None where its shape is another.

    Args:
        width, height: Of the upright image, in pixels.
        orientation: EXIF's, of the image's file. A mask of the shape of the stored image is turned with it.
    """
    if _same_aspect(labels_HW.shape[1] / labels_HW.shape[0], width / height):
        return labels_HW
    turn = _TURN.get(orientation)
    if turn is not None and _same_aspect(labels_HW.shape[0] / labels_HW.shape[1], width / height):
        return np.ascontiguousarray(turn(labels_HW))
    return None


def _same_aspect(own: float, wanted: float) -> bool:
    return abs(own - wanted) <= MAX_ASPECT_CHANGE * max(own, wanted)


_TURN: dict[int, Any] = {
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
"""EXIF orientations that swap the sides -> how rows and columns are turned upright."""


def resized_mask(labels_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Class numbers at another size, uint8 [height,width], by their nearest pixels."""
    if labels_HW.shape == (height, width):
        return labels_HW
    picture = Image.fromarray(labels_HW).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(picture, np.uint8)


def stored_orientation(path: Path) -> int:
    """EXIF's orientation of an image's file; 1 where there is none."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            value = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1
    return value if 1 <= value <= 8 else 1


def content_digest(data: bytes) -> str:
    """``sha256:...``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
