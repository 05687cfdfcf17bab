"""Images into arrays, the same in training, verification and serving (ARCHITECTURE 10.4).

Legend: H height, W width.

What becomes of what a file may hold:

- JPEG: decoded by libjpeg-turbo; its DCT scaling halves (or more) as long as the shorter side stays at
  least `min_side`. Only the image's size decides the scale.
- EXIF orientation: applied.
- Grey: repeated over the three channels. 16 bits: the upper eight. 1 bit: 0 and 255.
- Alpha: composited on white, as viewers show it (colours below full transparency are arbitrary).
- CMYK: Pillow's plain conversion, no colour profile. Animations: the first frame.
- Broken, truncated or unknown files: refused, never half-decoded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xinfer._extras import require
from xinfer.errors import ImageDecodeError, InputError

MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384
"""Pixels: the resize behind the decoder needs memory in proportion to the longer side."""
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")

_EXIF_ORIENTATION = 0x0112
_TURN = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
"""EXIF orientation -> how the stored rows and columns are turned upright."""

_KNOWN_UNSUPPORTED = {
    b"%PDF": "PDF", b"<svg": "SVG", b"<?xm": "SVG or XML", b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip", b"8BPS": "Photoshop", b"\xff\x0a": "JPEG XL", b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\xffO\xffQ": "JPEG 2000", b"RIFF": "a RIFF file that is not WebP",
}  # fmt: skip


def decode_image(data: bytes, *, min_side: int) -> np.ndarray:
    """Decodes an image file, deterministically.

    Args:
        data: The file's bytes: JPEG, PNG, BMP, TIFF, WebP or GIF, at most 50 megapixels and
            16,384 pixels a side.
        min_side: The shorter side that the model needs, in pixels; JPEGs may be decoded smaller than
            they are, but not below this.

    Returns:
        Pixels [H,W,3], uint8, RGB, upright.

    Raises:
        ImageDecodeError: ``image.unreadable``, ``image.truncated``, ``image.too_large`` or
            ``image.unsupported``.
    """
    return decode_image_and_size(data, min_side_for=lambda _: min_side)[0]


def decode_image_and_size(
    data: bytes, *, min_side_for: Callable[[tuple[int, int]], int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes an image file as `decode_image` does, and says how large the image in the file is.

    Args:
        data: As in `decode_image`.
        min_side_for: From the image's height and width, upright, to the `min_side` of `decode_image`.

    Returns:
        Pixels [H,W,3], uint8, RGB, upright; the image's own height and width, upright.

    Raises:
        ImageDecodeError: As in `decode_image`.
    """
    data = bytes(data)
    if not data:
        raise ImageDecodeError(
            "the image is empty (0 bytes)", value=0, hint="send the file's bytes as the body"
        )
    image = _open(data)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageDecodeError(
            f"the image has {width}x{height} pixels, at most {MAX_PIXELS // 1_000_000} million are accepted",
            code="image.too_large",
            value=(width, height),
            hint="send a smaller image",
        )
    if max(width, height) > MAX_SIDE:
        raise ImageDecodeError(
            f"the image has {width}x{height} pixels, a side may have at most {MAX_SIDE}",
            code="image.too_large",
            value=(width, height),
            hint="send a smaller image",
        )
    orientation = _orientation(image)
    size = (width, height) if orientation >= 5 else (height, width)
    min_side = min_side_for(size)
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        pixels_HW3 = _decode_jpeg(data, min_side)
    else:
        pixels_HW3 = _decode_pillow(image)
    turn = _TURN.get(orientation)
    return (np.ascontiguousarray(turn(pixels_HW3)) if turn else pixels_HW3), size


def read_image(
    image: bytes | np.ndarray | str | os.PathLike[str], *, min_side_for: Callable[[tuple[int, int]], int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels of whatever a caller calls an image.

    Args:
        image: Encoded bytes, a path, or pixels [H,W,3] uint8 RGB, which are returned as they are.
        min_side_for: As in `decode_image_and_size`.

    Returns:
        Pixels [H,W,3], uint8, RGB; the image's own height and width.

    Raises:
        ImageDecodeError: The file cannot be decoded.
        InputError: The array is not [H,W,3] uint8, or the path cannot be read.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(
                f"pixels must be [H,W,3] uint8 RGB, given was {image.dtype} {list(image.shape)}",
                value=list(image.shape),
            )
        return image, (image.shape[0], image.shape[1])
    if isinstance(image, str | os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read {os.fspath(image)!r}: {error.strerror}", value=str(image)
            ) from error
    return decode_image_and_size(image, min_side_for=min_side_for)


def _open(data: bytes) -> Any:
    pillow = require("PIL.Image", "image")
    try:
        return pillow.open(io.BytesIO(data), formats=FORMATS)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise ImageDecodeError(
            f"the image is too large: {error}", code="image.too_large", hint="send a smaller image"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _unidentified(data) from error


def _unidentified(data: bytes) -> ImageDecodeError:
    start = data[:16]
    name = next((name for magic, name in _KNOWN_UNSUPPORTED.items() if data.startswith(magic)), None)
    if start[4:8] == b"ftyp":
        name = {b"avif": "AVIF", b"heic": "HEIC", b"mif1": "HEIF"}.get(start[8:12], "a video")
    if name and start[8:12] != b"WEBP":
        return ImageDecodeError(
            f"{name} is not supported",
            code="image.unsupported",
            value=start,
            hint="send JPEG, PNG, WebP, BMP, TIFF or GIF",
        )
    if data.startswith((b"\xff\xd8", b"\x89PNG", b"GIF8")) or start[8:12] == b"WEBP":
        return ImageDecodeError(
            f"the image ends after {len(data)} bytes, before it can be read",
            code="image.truncated",
            value=len(data),
        )
    return ImageDecodeError(
        "this is not an image", value=start, hint="send JPEG, PNG, WebP, BMP, TIFF or GIF"
    )


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # EXIF is a hint written by cameras and often damaged; a file without a readable one is upright.
        return 1


def _decode_jpeg(data: bytes, min_side: int) -> np.ndarray:
    simplejpeg = require("simplejpeg", "image")
    try:
        # Factors below 2 leave libjpeg-turbo's SIMD path: slower than decoding at full size.
        pixels_HW3: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", min_height=min_side, min_width=min_side, min_factor=2, strict=True
        )
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise ImageDecodeError(
                f"the image ends early, after {len(data)} bytes",
                code="image.truncated",
                value=len(data),
                hint="the upload was cut off or the file is incomplete; send it again",
            ) from error
        raise ImageDecodeError(f"the JPEG is damaged: {error}", value=str(error)) from error
    return pixels_HW3


def _decode_pillow(image: Any) -> np.ndarray:
    pillow = require("PIL.Image", "image")
    try:
        image.load()
        if image.mode.startswith("I"):
            array = np.asarray(image)
            if array.min() < 0 or array.max() > 0xFFFF:
                raise ImageDecodeError(
                    "grey values exceed 16 bits",
                    code="image.unsupported",
                    value=image.mode,
                    hint="send 8 or 16 bits",
                )
            grey_HW = (array.astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey_HW[:, :, None], 3, axis=2)
        if image.mode == "F":
            raise ImageDecodeError(
                "floating-point pixels are not supported",
                code="image.unsupported",
                value="F",
                hint="send 8 or 16 bits",
            )
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = pillow.new("RGBA", image.size, "white")
            image = pillow.alpha_composite(white, image)
        return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow names no type for this; without LOAD_TRUNCATED_IMAGES every short file ends here.
        message = str(error)
        if any(
            word in message.lower()
            for word in ("truncated", "unrecognized data stream", "end of file", "not enough")
        ):
            raise ImageDecodeError(
                f"the image ends early: {message}",
                code="image.truncated",
                hint="the upload was cut off or the file is incomplete; send it again",
            ) from error
        raise ImageDecodeError(
            f"the {image.format or 'image'} is damaged: {message}", value=message
        ) from error
