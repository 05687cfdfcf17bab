"""Image files as samples, decoded fast and, with a cache, once.

`decode_image` gives what `xinfer.preproc.decode_image` gives, bit for bit (a test holds the two together):
what is trained on is what is served. JPEGs are decoded by libjpeg-turbo at a reduced scale where the model
needs no more.

Legend: H height, W width.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import simplejpeg
from PIL import Image

from xtorch.data.decode_cache import DecodeCache
from xtorch.data.images import MAX_PIXELS
from xtorch.errors import DataError, SettingsError
from xtorch.transforms.base import Transform
from xtorch.transforms.sample import ImageSample

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
_VERSION = 1
"""Raised when the same file would be decoded into other pixels: cached ones are no longer found."""


def decode_image(data: bytes, *, min_side: int) -> np.ndarray:
    """Decodes an image file.

    EXIF orientation is applied; grey, 1 bit, 16 bits (the upper eight), alpha (on white) and CMYK become RGB;
    of animations the first frame is taken.

    Args:
        data: JPEG, PNG, BMP, TIFF, WebP or GIF, at most 50 megapixels.
        min_side: a JPEG may be decoded at a half, quarter, ... as long as its shorter side keeps this many
            pixels.

    Returns:
        uint8 RGB [H,W,3], upright.

    Raises:
        DataError: this is no such image, or it is damaged or cut short.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise DataError("The image is too large.", value=image.size, hint="at most 50 megapixels")
        orientation = _orientation(image)
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            pixels_HW3 = simplejpeg.decode_jpeg(
                # Factors below 2 leave libjpeg-turbo's fast path: slower than decoding at full size.
                data, "RGB", min_height=min_side, min_width=min_side, min_factor=2, strict=True
            )  # fmt: skip
        else:
            pixels_HW3 = _rgb(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow has no type of its own for damaged files; simplejpeg raises ValueError.
        raise DataError(f"The image cannot be decoded: {error}", value=len(data)) from error
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels_HW3))


def _rgb(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 0xFFFF:
            raise ValueError("grey values exceed 16 bits")
        return np.repeat((array.astype(np.uint16) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels are not supported")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        value = int(image.getexif().get(0x0112, 1))
    except Exception:
        # EXIF is often damaged; a file without a readable one is upright.
        return 1
    return value if value in _UPRIGHT else 1


_UPRIGHT: dict[int, Any] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
"""EXIF orientation -> how the stored rows and columns are turned upright."""


class ImageFiles:
    """Image files as a dataset for `xtorch.data.loader.ExtendedDataLoader`.

    Args:
        paths: of the files.
        targets: one for each file, such as its class; None: none.
        min_side: as for `decode_image`: the shorter side that training needs, in pixels.
        transform: applied to the `ImageSample` (uint8 RGB, with `target`) of each file.
        digests: ``sha256:...`` of the files' contents where they are known, as from a data check; otherwise
            they are computed when a cache needs them.

    Raises:
        SettingsError: paths, targets and digests differ in number, or `min_side` is not positive.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        targets: Sequence[Any] | None = None,
        *,
        min_side: int,
        transform: Transform[ImageSample] | None = None,
        digests: Sequence[str] | None = None,
    ) -> None:
        for name, values in (("targets", targets), ("digests", digests)):
            if values is not None and len(values) != len(paths):
                raise SettingsError(
                    f"There are {len(paths)} paths and {len(values)} {name}.", value=len(values)
                )
        if min_side < 1:
            raise SettingsError("min_side must be at least 1 pixel.", value=min_side)
        self.paths = [Path(path) for path in paths]
        self.targets = None if targets is None else list(targets)
        self.min_side, self.transform = min_side, transform
        self._known = None if digests is None else list(digests)
        self._seen: dict[int, tuple[tuple[int, int], str]] = {}
        self._cache: DecodeCache | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """What the decoded pixels depend on beside the file."""
        return {"decode": _VERSION, "min_side": self.min_side}

    def with_cache(self, cache: DecodeCache) -> Self:
        """The same files, decoded once."""
        other = type(self)(
            self.paths, self.targets, min_side=self.min_side, transform=self.transform, digests=self._known
        )
        other._cache = cache
        return other

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])

    def sample(self, index: int, rng: np.random.Generator) -> ImageSample:
        """The file, decoded and transformed.

        Raises:
            DataError: it cannot be read or decoded.
        """
        target = None if self.targets is None else self.targets[index]
        sample = ImageSample(image_HWC=self.pixels(index), target=target)
        return sample if self.transform is None else self.transform(sample, rng)

    def pixels(self, index: int) -> np.ndarray:
        """The file decoded: uint8 RGB [H,W,3]; read-only where it comes from a cache."""
        path = self.paths[index]
        try:
            if self._cache is None:
                return decode_image(path.read_bytes(), min_side=self.min_side)
            digest, data = self._content(index)
            pixels_HW3 = self._cache.get(self.recipe, digest)
            if pixels_HW3 is None:
                data = path.read_bytes() if data is None else data
                pixels_HW3 = decode_image(data, min_side=self.min_side)
                self._cache.put(self.recipe, digest, pixels_HW3)
            return pixels_HW3
        except OSError as error:
            raise DataError(f"The file cannot be read: {error.strerror}", value=str(path)) from error

    def digest(self, index: int) -> str:
        """``sha256:...`` of a file's content, read again when its size or time has changed."""
        return self._content(index)[0]

    def _content(self, index: int) -> tuple[str, bytes | None]:
        """The digest of a file's content, and the content if it had to be read for that."""
        if self._known is not None:
            return self._known[index], None
        path = self.paths[index]
        status = path.stat()
        version = (status.st_size, status.st_mtime_ns)
        seen = self._seen.get(index)
        if seen is not None and seen[0] == version:
            return seen[1], None
        data = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._seen[index] = (version, digest)
        return digest, data
