"""``/v1/blobs``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from ignition_client import wire
from ignition_hub.auth import policy
from ignition_hub.auth.http import Caller
from ignition_hub.hub import HubDep
from ignition_hub.storage import service, transfer

router = APIRouter(prefix="/v1/blobs", tags=["blobs"])


@router.post("/missing")
def missing(hub: HubDep, actor: Caller, query: wire.BlobQuery) -> wire.MissingBlobs:
    policy.require(actor, "blob.write")
    with hub.db.read() as session:
        return wire.MissingBlobs(missing=service.missing(session, actor.organisation_id, query.digests))


@router.put("/{digest}", status_code=204)
async def put(hub: HubDep, actor: Caller, request: Request, digest: str) -> Response:
    policy.require(actor, "blob.write")
    await transfer.receive(
        request, hub.db, hub.blobs, actor.organisation_id, digest, max_bytes=hub.settings.max_blob_bytes
    )
    return Response(status_code=204)


@router.get("/{digest}")
async def get(hub: HubDep, actor: Caller, digest: str) -> StreamingResponse:
    policy.require(actor, "read")
    return await transfer.answer(hub.db, hub.blobs, actor.organisation_id, digest)
