"""What one image file tells without a model: is it readable, how large is it, what does it look like.

Shapes: h, w rows and columns of a small grey thumbnail.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
_THUMBNAIL_PX = 32
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384
"""Same limits as those of `xinfer.preproc.decode_image`."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts about one image file; `error` says why it cannot be used."""

    digest: str
    """``sha256:...`` of the file's bytes."""
    width: int = 0
    height: int = 0
    mode: str = ""
    phash: int = 0
    """64-bit perceptual hash."""
    thumbnail_hw: np.ndarray | None = None
    """float32 [32,32], grey levels 0..255."""
    error: str | None = None


def _grey(image: Image.Image) -> Image.Image:
    """8-bit grey image; 16-bit and float images are scaled by their own range."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255.0 / (high - low if high > low else 1.0))
        return Image.fromarray(scaled.astype(np.uint8))
    return image.convert("L")


def _fits_16_bits(image: Image.Image) -> bool:
    values = np.asarray(image)
    return bool(values.min() >= 0 and values.max() <= 0xFFFF)


def image_facts(path: Path) -> ImageFacts:
    """Read a file completely and describe it; anything wrong with it ends up in `error`.

    Source: the perceptual hash is Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions" (2010), section 3.2.2, as in ImageHash's `phash`.
    """
    data = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if not data:
        return ImageFacts(digest=digest, error="the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                width, height, mode = image.width, image.height, image.mode
                if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                    return ImageFacts(
                        digest=digest, width=width, height=height, mode=mode, error="it is too large"
                    )
                # JPEG's DCT scaling: the whole file is still read, but in a fraction of the time.
                image.draft("L", (4 * _THUMBNAIL_PX, 4 * _THUMBNAIL_PX))
                image.load()
                if mode == "F" or (mode.startswith("I") and not _fits_16_bits(image)):
                    return ImageFacts(
                        digest=digest, width=width, height=height, mode=mode, error="it has more than 16 bits"
                    )
                grey = _grey(image)
    except UnidentifiedImageError:
        return ImageFacts(digest=digest, error="it is no image of a known format")
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        return ImageFacts(digest=digest, error=str(error) or type(error).__name__)
    bits = np.packbits(imagehash.phash(grey).hash.astype(np.uint8).ravel())
    thumbnail = grey.resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    return ImageFacts(
        digest=digest,
        width=width,
        height=height,
        mode=mode,
        phash=int.from_bytes(bits.tobytes(), "big"),
        thumbnail_hw=np.asarray(thumbnail, dtype=np.float32),
    )
