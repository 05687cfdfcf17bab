"""``/v1/endpoints`` for people, ``/v1/gateway`` for the gateway."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ignition_client import wire
from ignition_hub.auth import policy
from ignition_hub.auth.http import Caller
from ignition_hub.hub import HubDep
from ignition_hub.storage import transfer

GATEWAY_WAIT_S = 20

router = APIRouter(prefix="/v1/endpoints", tags=["endpoints"])
gateway_router = APIRouter(prefix="/v1/gateway", tags=["gateway"])


@router.get("")
def list_endpoints(hub: HubDep, actor: Caller) -> list[wire.Endpoint]:
    with hub.db.read() as session:
        return hub.endpoints.list_endpoints(session, actor)


@router.get("/{name}")
def show(hub: HubDep, actor: Caller, name: str) -> wire.Endpoint:
    with hub.db.read() as session:
        return hub.endpoints.show(session, actor, name)


@router.post("/{name}/keys")
def new_key(hub: HubDep, actor: Caller, name: str) -> wire.NewKey:
    """Makes the endpoint's key, or replaces it."""
    with hub.db.write() as session:
        return hub.endpoints.new_key(session, actor, name)


@router.delete("/{name}", status_code=204)
def delete(hub: HubDep, actor: Caller, name: str) -> Response:
    with hub.db.write() as session:
        hub.endpoints.delete(session, actor, name)
    return Response(status_code=204)


@router.post("/{name}/predict")
async def predict(hub: HubDep, actor: Caller, request: Request, name: str) -> Response:
    """The playground: the body goes to the gateway as it is."""

    def check() -> None:
        with hub.db.read() as session:
            hub.endpoints.require_predict(session, actor, name)

    await run_in_threadpool(check)
    return await hub.playground.predict(name, request)


@gateway_router.get("/config")
async def config(
    hub: HubDep, actor: Caller, etag: Annotated[str, Query(max_length=100)] = ""
) -> wire.GatewayConfig:
    """Answers as soon as the configuration differs from `etag`, and after some seconds in any case."""
    policy.require(actor, "gateway.sync")

    def deliver() -> wire.GatewayConfig:
        with hub.db.write() as session:
            found = hub.endpoints.config(session)
            hub.endpoints.delivered(session, found)
        return found

    def changed() -> wire.GatewayConfig | None:
        with hub.db.read() as session:
            if hub.endpoints.config(session).etag == etag:
                return None
        return deliver()

    # Also what is answered in the end may be new: it must not go out without being remembered.
    found = await hub.signals.poll("gateway", changed, wait_s=GATEWAY_WAIT_S)
    return found if found is not None else await run_in_threadpool(deliver)


@gateway_router.get("/blobs/{digest}")
async def blob(hub: HubDep, actor: Caller, digest: str) -> StreamingResponse:
    def owner() -> str:
        with hub.db.read() as session:
            return hub.endpoints.require_blob(session, actor, digest)

    return await transfer.answer(hub.db, hub.blobs, await run_in_threadpool(owner), digest)


@gateway_router.post("/status", status_code=204)
def status(hub: HubDep, actor: Caller, body: wire.GatewayReport) -> Response:
    with hub.db.write() as session:
        hub.endpoints.report(session, actor, body)
    return Response(status_code=204)
