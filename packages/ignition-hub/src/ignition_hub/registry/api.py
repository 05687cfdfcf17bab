"""``/v1/models`` and ``/v1/engines``."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ignition_client import wire
from ignition_hub.auth.http import Caller
from ignition_hub.hub import HubDep
from ignition_hub.registry import service
from ignition_hub.storage import transfer

router = APIRouter(prefix="/v1", tags=["registry"])


@router.get("/models")
def list_models(hub: HubDep, actor: Caller) -> list[wire.Model]:
    with hub.db.read() as session:
        return service.list_models(session, actor)


@router.get("/models/{owner}/{name}")
def show_model(hub: HubDep, actor: Caller, owner: str, name: str) -> wire.Model:
    with hub.db.read() as session:
        return service.show_model(session, actor, owner, name)


@router.get("/engines")
def list_engines(hub: HubDep, actor: Caller) -> list[wire.Engine]:
    with hub.db.read() as session:
        return service.list_engines(session, actor)


@router.get("/engines/{engine_id}")
def show_engine(hub: HubDep, actor: Caller, engine_id: str) -> wire.EngineDetail:
    with hub.db.read() as session:
        return service.show_engine(session, actor, engine_id)


@router.get("/engines/{engine_id}/download")
async def download(hub: HubDep, actor: Caller, engine_id: str) -> StreamingResponse:
    engine = await run_in_threadpool(show_engine, hub, actor, engine_id)
    response = await transfer.answer(hub.db, hub.blobs, actor.organisation_id, engine.digest)
    name = f"{engine.model.rpartition('/')[2]}-{engine.model_version}-{engine.target}.engine"
    response.headers["Content-Disposition"] = f'attachment; filename="{_header_safe(name)}"'
    return response


def _header_safe(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
