"""The agent protocol: outbound HTTPS only, a token of its own for every lease."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ignition_client import wire
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor
from ignition_hub.auth.http import Caller
from ignition_hub.errors import NotFoundError
from ignition_hub.hub import Hub, HubDep
from ignition_hub.jobs import reading, reports
from ignition_hub.storage import transfer

router = APIRouter(prefix="/v1", tags=["agents"])


@router.post("/leases", response_model=None, responses={200: {"model": wire.Lease}, 204: {}})
async def lease(hub: HubDep, actor: Caller, body: wire.LeaseRequest) -> wire.Lease | Response:
    """Waits for a job that the agent can do; 204 when there was none."""
    policy.require(actor, "job.lease")

    def claim() -> wire.Lease | None:
        with hub.db.read() as session:
            if not hub.jobs.has_work(session, body):
                return None
        with hub.db.write() as session:
            return hub.jobs.claim(session, actor, body)

    answer = await hub.signals.poll("jobs", claim, wait_s=body.wait_s)
    if answer is None:
        return Response(status_code=204)
    return Response(answer.model_dump_json(), media_type="application/json")


@router.post("/jobs/{job_id}/heartbeat")
def heartbeat(hub: HubDep, actor: Caller, job_id: str, body: wire.Heartbeat) -> wire.HeartbeatAnswer:
    with hub.db.write() as session:
        return hub.jobs.heartbeat(session, actor, job_id, body.epoch)


@router.patch("/jobs/{job_id}/log", status_code=204)
def append_log(hub: HubDep, actor: Caller, job_id: str, body: wire.LogChunk) -> Response:
    with hub.db.write() as session:
        reports.append_log(session, actor, hub.jobs, job_id, body)
    return Response(status_code=204)


@router.post("/jobs/{job_id}/events", status_code=204)
def add_events(hub: HubDep, actor: Caller, job_id: str, body: wire.EventBatch) -> Response:
    with hub.db.write() as session:
        reports.add_events(session, actor, hub.jobs, job_id, body)
    return Response(status_code=204)


@router.put("/jobs/{job_id}/blobs/{digest}", status_code=204)
async def put_blob(hub: HubDep, actor: Caller, request: Request, job_id: str, digest: str) -> Response:
    await run_in_threadpool(_still_leased, hub, actor, job_id)
    await transfer.receive(
        request, hub.db, hub.blobs, actor.organisation_id, digest, max_bytes=hub.settings.max_blob_bytes
    )
    return Response(status_code=204)


@router.get("/jobs/{job_id}/blobs/{digest}")
async def get_blob(hub: HubDep, actor: Caller, job_id: str, digest: str) -> StreamingResponse:
    """One of the job's inputs, for whoever has the lease."""

    def is_input() -> bool:
        with hub.db.read() as session:
            hub.jobs.leased(session, actor, job_id, actor.epoch or 0)
            return reading.has_input(session, job_id, digest)

    if not await run_in_threadpool(is_input):
        raise NotFoundError("This is not an input of the job.", value=digest)
    return await transfer.answer(hub.db, hub.blobs, actor.organisation_id, digest)


@router.post("/jobs/{job_id}/complete")
def complete(hub: HubDep, actor: Caller, job_id: str, body: wire.JobCompletion) -> dict[str, str]:
    with hub.db.write() as session:
        return {"status": hub.jobs.complete(session, actor, job_id, body).value}


@router.post("/jobs/{job_id}/release", status_code=204)
def release(hub: HubDep, actor: Caller, job_id: str, body: wire.JobRelease) -> Response:
    with hub.db.write() as session:
        hub.jobs.release(session, actor, job_id, body.epoch)
    return Response(status_code=204)


def _still_leased(hub: Hub, actor: Actor, job_id: str) -> None:
    """Only whoever has the lease may upload."""
    with hub.db.read() as session:
        hub.jobs.leased(session, actor, job_id, actor.epoch or 0)
