"""``/v1/jobs`` for people."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ignition_client import wire
from ignition_hub.auth.http import Caller
from ignition_hub.hub import HubDep
from ignition_hub.jobs import reading

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("")
def list_jobs(hub: HubDep, actor: Caller, run: str | None = None) -> list[wire.Job]:
    with hub.db.read() as session:
        return reading.list_jobs(session, actor, run)


@router.get("/{job_id}")
def show(hub: HubDep, actor: Caller, job_id: str) -> wire.Job:
    with hub.db.read() as session:
        return reading.show(session, actor, job_id)


@router.get("/{job_id}/log")
def log(
    hub: HubDep, actor: Caller, job_id: str, offset: Annotated[int, Query(ge=0, le=2**40)] = 0
) -> wire.LogTail:
    with hub.db.read() as session:
        return reading.log(session, actor, job_id, offset)


@router.get("/{job_id}/events")
def events(hub: HubDep, actor: Caller, job_id: str) -> list[wire.JobEvent]:
    with hub.db.read() as session:
        return reading.events(session, actor, job_id)


@router.post("/{job_id}/cancel")
def cancel(hub: HubDep, actor: Caller, job_id: str) -> wire.Job:
    with hub.db.write() as session:
        hub.jobs.cancel(session, actor, job_id)
        return reading.show(session, actor, job_id)
