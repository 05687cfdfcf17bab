"""``/v1/templates`` and ``/v1/runs``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from ignition_client import wire
from ignition_hub.auth.actor import Actor
from ignition_hub.auth.http import Caller
from ignition_hub.foundry import service
from ignition_hub.foundry.templates import TEMPLATES
from ignition_hub.hub import Hub, HubDep
from ignition_hub.storage import transfer

router = APIRouter(prefix="/v1", tags=["foundry"])

_LOOK_AGAIN_S = 2.0
_COALESCE_S = 0.2
_HEARTBEAT_S = 15.0


@router.get("/templates")
def list_templates(_: Caller) -> list[wire.Template]:
    return list(TEMPLATES)


@router.post("/runs")
def start(hub: HubDep, actor: Caller, body: wire.RunStart) -> wire.Run:
    with hub.db.write() as session:
        return hub.foundry.start(session, actor, body)


@router.get("/runs")
def list_runs(hub: HubDep, actor: Caller) -> list[wire.Run]:
    with hub.db.read() as session:
        return service.list_runs(session, actor)


@router.get("/runs/{run_id}")
def show(hub: HubDep, actor: Caller, run_id: str) -> wire.Run:
    with hub.db.read() as session:
        return service.show(session, actor, run_id)


@router.post("/runs/{run_id}/cancel")
def cancel(hub: HubDep, actor: Caller, run_id: str) -> wire.Run:
    with hub.db.write() as session:
        return hub.foundry.cancel(session, actor, run_id)


@router.get(
    "/runs/{run_id}/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def stream(hub: HubDep, actor: Caller, run_id: str) -> StreamingResponse:
    """`wire.RunSnapshot` as server-sent events named ``snapshot``, one per change; ends with the run."""
    first = await run_in_threadpool(_snapshot, hub, actor, run_id)
    return StreamingResponse(
        _snapshots(hub, actor, run_id, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


@router.get("/runs/{run_id}/report")
def report(hub: HubDep, actor: Caller, run_id: str) -> dict[str, Any]:
    with hub.db.read() as session:
        return service.report(session, actor, hub.blobs, run_id)


@router.get("/runs/{run_id}/report/{path:path}")
async def report_file(hub: HubDep, actor: Caller, run_id: str, path: str) -> StreamingResponse:
    """A picture that the report names."""

    def look() -> wire.FileEntry:
        with hub.db.read() as session:
            return service.report_file(session, actor, run_id, f"report/{path}")

    file = await run_in_threadpool(look)
    return await transfer.answer(hub.db, hub.blobs, actor.organisation_id, file.digest, name=file.path)


def _snapshot(hub: Hub, actor: Actor, run_id: str) -> wire.RunSnapshot:
    with hub.db.read() as session:
        return service.snapshot(session, actor, run_id)


async def _snapshots(hub: Hub, actor: Actor, run_id: str, first: wire.RunSnapshot) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop().time
    current, sent, sent_at_s = first, "", clock()
    with hub.signals.listen(f"run:{run_id}") as changed:
        while True:
            changed.clear()
            data = current.model_dump_json()
            if data != sent:
                yield f"event: snapshot\ndata: {data}\n\n"
                sent, sent_at_s = data, clock()
            elif clock() - sent_at_s > _HEARTBEAT_S:
                yield ": still here\n\n"
                sent_at_s = clock()
            if current.run.status.final or hub.signals.closed:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _LOOK_AGAIN_S)
            await asyncio.sleep(_COALESCE_S)
            current = await run_in_threadpool(_snapshot, hub, actor, run_id)
