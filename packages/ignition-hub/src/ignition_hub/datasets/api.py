"""``/v1/datasets``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ignition_client import wire
from ignition_hub.auth.http import Caller
from ignition_hub.datasets import service
from ignition_hub.hub import HubDep
from ignition_hub.storage import transfer

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])
Version = Annotated[int | None, Query(ge=1, le=service.MAX_VERSION)]


@router.post("")
def commit(hub: HubDep, actor: Caller, body: wire.DatasetCommit) -> wire.DatasetDetail:
    with hub.db.write() as session:
        return service.commit(session, actor, hub.jobs, body)


@router.get("")
def list_datasets(hub: HubDep, actor: Caller) -> list[wire.Dataset]:
    with hub.db.read() as session:
        return service.list_datasets(session, actor)


@router.get("/{name}")
def show(hub: HubDep, actor: Caller, name: str, version: Version = None) -> wire.DatasetDetail:
    with hub.db.read() as session:
        return service.show(session, actor, name, version)


@router.get("/{name}/files/{path:path}")
async def file(
    hub: HubDep, actor: Caller, name: str, path: str, version: Version = None
) -> StreamingResponse:
    def look() -> service.DatasetFile:
        with hub.db.read() as session:
            return service.find_file(session, actor, name, version, path)

    found = await run_in_threadpool(look)
    return await transfer.answer(hub.db, hub.blobs, actor.organisation_id, found.digest, name=found.path)


@router.get("/{name}/thumbnails/{path:path}")
def thumbnail(hub: HubDep, actor: Caller, name: str, path: str, version: Version = None) -> Response:
    with hub.db.read() as session:
        found = service.find_file(session, actor, name, version, path)
    return Response(
        hub.thumbnails.get(actor.organisation_id, found.digest, found.size_bytes),
        media_type="image/jpeg",
        headers={"Cache-Control": "private, max-age=86400"},
    )
