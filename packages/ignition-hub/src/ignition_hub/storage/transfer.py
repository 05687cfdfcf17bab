"""Blobs over HTTP: one way in and one way out, whoever asks."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ignition_hub.db import Database
from ignition_hub.errors import BadRequestError, ConflictError, NotFoundError, TooLargeError
from ignition_hub.storage import service
from ignition_hub.storage.blobs import BlobStore, parse_digest

_SHOWN_INLINE = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
"""What a browser may show; everything else is a download (an SVG can carry scripts)."""


async def receive(
    request: Request, db: Database, blobs: BlobStore, organisation_id: str, digest: str, *, max_bytes: int
) -> int:
    """Keep the request's body under `digest`. Sending a blob again is allowed and cheap.

    Returns:
        Its size in bytes.
    """
    parse_digest(digest)
    announced = request.headers.get("content-length", "0")
    if not announced.isascii() or not announced.isdigit():
        raise BadRequestError("Content-Length is not a number.", value=announced)
    if int(announced) > max_bytes:
        raise TooLargeError(f"A file may have at most {max_bytes:,} bytes.", value=int(announced))

    def known() -> int | None:
        with db.read() as session:
            return service.sizes(session, organisation_id, [digest]).get(digest)

    size_bytes = await run_in_threadpool(known)
    if size_bytes is not None:
        async for _ in request.stream():
            pass
        return size_bytes
    received = await blobs.put(organisation_id, digest, _body(request), max_bytes=max_bytes)

    def record() -> None:
        try:
            with db.write() as session:
                service.record(session, organisation_id, digest, received)
        except ConflictError:
            return  # another upload of the same bytes was quicker

    await run_in_threadpool(record)
    return received


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def answer(
    db: Database, blobs: BlobStore, organisation_id: str, digest: str, *, name: str | None = None
) -> StreamingResponse:
    """The blob as a response.

    Args:
        name: File name, which decides the media type; without one it is a stream of bytes.

    Raises:
        NotFoundError: The organisation has no such blob.
    """
    parse_digest(digest)

    def look() -> int | None:
        with db.read() as session:
            return service.sizes(session, organisation_id, [digest]).get(digest)

    size_bytes = await run_in_threadpool(look)
    if size_bytes is None:
        raise NotFoundError("There is no such file.", value=digest)
    guessed = mimetypes.guess_type(name)[0] if name else None
    media_type = guessed if guessed in (*_SHOWN_INLINE, "application/json") else "application/octet-stream"
    return StreamingResponse(
        await blobs.stream(organisation_id, digest),
        media_type=media_type,
        headers={
            "Content-Length": str(size_bytes),
            "ETag": f'"{digest}"',
            "Cache-Control": "private, max-age=31536000, immutable",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "Content-Disposition": "inline" if media_type in _SHOWN_INLINE else "attachment",
        },
    )
