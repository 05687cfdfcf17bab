"""Small pictures of dataset files. The files are anybody's: whatever is wrong with one ends here."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from ignition_hub.errors import BadRequestError, HubError
from ignition_hub.storage.blobs import BlobStore

SIDE = 256
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 1024**2
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""What training reads. Pillow knows more: PostScript, for one, it hands to Ghostscript."""


class Thumbnails:
    """JPEG thumbnails, kept below `folder` by the digest of the original."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder = folder
        self._blobs = blobs

    def get(self, organisation_id: str, digest: str, size_bytes: int) -> bytes:
        """
        Raises:
            BadRequestError: The file is not an image that can be shown.
        """
        if size_bytes > MAX_BYTES:
            raise BadRequestError(f"The file has more than {MAX_BYTES:,} bytes.", value=size_bytes)
        hex_digest = digest.removeprefix("sha256:")
        path = self._folder / organisation_id / hex_digest[:2] / f"{hex_digest}-{SIDE}.jpg"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            data = make_thumbnail(self._blobs.read(organisation_id, digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
        return data


def make_thumbnail(data: bytes) -> bytes:
    """A JPEG of at most 256 x 256 pixels, upright.

    Raises:
        BadRequestError: `data` is not an image that can be shown.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadRequestError(
                    f"The image has more than {MAX_PIXELS:,} pixels.", value=f"{width}x{height}"
                )
            image.draft("RGB", (SIDE, SIDE))
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((SIDE, SIDE))
            if upright.mode.startswith("I"):  # 16 bits: PIL would clip instead of scaling
                upright = upright.point(lambda value: value / 256).convert("L")
            out = io.BytesIO()
            upright.convert("RGB").save(out, "JPEG", quality=80)
            return out.getvalue()
    except HubError:
        raise
    except Exception as error:  # decoders raise whatever they like at hostile bytes
        raise BadRequestError("The file cannot be shown as an image.", hint=str(error)[:200]) from error
