"""Content-addressed bytes in an object store: a local folder by default, S3 by URL.

Objects are named ``<organisation>/sha256/<first two>/<hex digest>``; deduplication never crosses an
organisation. An upload becomes visible only when all its bytes have arrived and have the right digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.store import from_url

from ignition_hub.errors import BadRequestError, BlobLostError, DigestMismatchError, TooLargeError

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CHUNK_BYTES = 1 << 20


class BlobStore:
    """
    Args:
        url: ``file:///…``, or any URL that obstore opens.
    """

    def __init__(self, url: str) -> None:
        if url.startswith("file:"):
            Path(url2pathname(urlsplit(url).path)).mkdir(parents=True, exist_ok=True)
        self._store = from_url(url)

    async def put(
        self, organisation_id: str, digest: str, chunks: AsyncIterator[bytes], *, max_bytes: int
    ) -> int:
        """Keep `chunks` under `digest`; nothing is kept when this raises.

        Returns:
            The number of bytes.

        Raises:
            DigestMismatchError: They have another digest.
            TooLargeError: They are more than `max_bytes`.
        """
        size_bytes = 0

        async def checked() -> AsyncIterator[bytes]:
            # Raising in here makes the store abort the upload.
            nonlocal size_bytes
            sha256 = hashlib.sha256()
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise TooLargeError(f"A file may have at most {max_bytes:,} bytes.", value=size_bytes)
                sha256.update(chunk)
                yield chunk
            found = f"sha256:{sha256.hexdigest()}"
            if found != digest:
                raise DigestMismatchError(f"What arrived has the digest {found}.", value=digest)

        await obstore.put_async(self._store, _key(organisation_id, digest), checked())
        return size_bytes

    async def stream(self, organisation_id: str, digest: str) -> AsyncIterator[bytes]:
        """
        Raises:
            BlobLostError: There is no such object; callers know that there was one.
        """
        try:
            found = await obstore.get_async(self._store, _key(organisation_id, digest))
        except FileNotFoundError as error:
            raise BlobLostError("The file is not in the store any more.", value=digest) from error

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

        return chunks()

    def read(self, organisation_id: str, digest: str) -> bytes:
        """A whole blob.

        Raises:
            BlobLostError: There is no such object; callers know that there was one.
        """
        try:
            return bytes(obstore.get(self._store, _key(organisation_id, digest)).bytes())
        except FileNotFoundError as error:
            raise BlobLostError("The file is not in the store any more.", value=digest) from error


def parse_digest(digest: str) -> str:
    """
    Raises:
        BadRequestError: Not ``sha256:<64 hex digits>``.
    """
    if not DIGEST.fullmatch(digest):
        raise BadRequestError("A digest looks like 'sha256:' and 64 hexadecimal digits.", value=digest)
    return digest


def _key(organisation_id: str, digest: str) -> str:
    hex_digest = digest.removeprefix("sha256:")
    return f"{organisation_id}/sha256/{hex_digest[:2]}/{hex_digest}"
