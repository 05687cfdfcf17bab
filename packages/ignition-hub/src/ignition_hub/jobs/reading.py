"""Looking at jobs: state, wire models, logs, events, outputs. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor
from ignition_hub.errors import NotFoundError
from ignition_hub.jobs.models import JobEventRow, JobFileRow, JobLogRow, JobRow

_MAX_TAIL_BYTES = 256 * 1024
_MAX_EVENTS = 5000


@dataclass(frozen=True)
class JobState:
    """What other domains may know of a job."""

    id: str
    kind: str
    status: str
    run_id: str | None
    agent_target: str | None
    public_key_pem: str | None
    started_at: datetime | None
    finished_at: datetime | None
    error: dict[str, Any] | None
    result: dict[str, Any] | None

    @property
    def final(self) -> bool:
        return wire.JobStatus(self.status).final


def state_of(row: JobRow) -> JobState:
    return JobState(
        id=row.id,
        kind=row.kind,
        status=row.status,
        run_id=row.run_id,
        agent_target=row.agent_target,
        public_key_pem=row.public_key_pem,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
        result=row.result,
    )


def states(session: Session, job_ids: Iterable[str]) -> dict[str, JobState]:
    """Those of the jobs that there are, by id."""
    ids = list(job_ids)
    found: dict[str, JobState] = {}
    for i in range(0, len(ids), 500):
        rows = session.scalars(select(JobRow).where(JobRow.id.in_(ids[i : i + 500])))
        found.update((row.id, state_of(row)) for row in rows)
    return found


def locked_state(session: Session, job_id: str) -> JobState:
    """The job as it is now; it does not change before this transaction ends."""
    return state_of(session.get_one(JobRow, job_id, with_for_update=True, populate_existing=True))


def output_files(session: Session, job_id: str) -> list[wire.FileEntry]:
    return _files(session, job_id, "output")


def input_files(session: Session, job_id: str) -> list[wire.FileEntry]:
    return _files(session, job_id, "input")


def has_input(session: Session, job_id: str, digest: str) -> bool:
    query = select(JobFileRow.path).where(
        JobFileRow.job_id == job_id, JobFileRow.role == "input", JobFileRow.digest == digest
    )
    return session.scalar(query.limit(1)) is not None


def find_output(session: Session, job_id: str, path: str) -> wire.FileEntry | None:
    row = session.get(JobFileRow, (job_id, "output", path))
    return _entry(row) if row is not None else None


def counts(session: Session) -> list[tuple[str, str, int]]:
    """Number of jobs by kind and status."""
    rows = session.execute(
        select(JobRow.kind, JobRow.status, func.count()).group_by(JobRow.kind, JobRow.status)
    )
    return [(kind, status, num) for kind, status, num in rows]


def list_jobs(session: Session, actor: Actor, run_id: str | None = None) -> list[wire.Job]:
    """Newest first, at most 500; those of one run oldest first."""
    policy.require(actor, "read")
    query = select(JobRow).where(JobRow.organisation_id == actor.organisation_id)
    if run_id is None:
        query = query.order_by(JobRow.created_at.desc(), JobRow.id)
    else:
        query = query.where(JobRow.run_id == run_id).order_by(JobRow.created_at, JobRow.id)
    return [job(session, row) for row in session.scalars(query.limit(500))]


def show(session: Session, actor: Actor, job_id: str) -> wire.Job:
    return job(session, find(session, actor, job_id))


def find(session: Session, actor: Actor, job_id: str) -> JobRow:
    """
    Raises:
        NotFoundError: No such job in the actor's organisation.
    """
    policy.require(actor, "read")
    row = session.get(JobRow, job_id)
    if row is None or row.organisation_id != actor.organisation_id:
        raise NotFoundError("There is no such job.", value=job_id)
    return row


def job(session: Session, row: JobRow) -> wire.Job:
    last = session.scalars(
        select(JobEventRow)
        .where(JobEventRow.job_id == row.id, JobEventRow.epoch == row.epoch)
        .order_by(JobEventRow.seq.desc())
        .limit(1)
    ).first()
    return wire.Job.model_validate(
        {
            "id": row.id,
            "kind": row.kind,
            "status": row.status,
            "run_id": row.run_id,
            "target": row.target,
            "attempt": row.attempt,
            "epoch": row.epoch,
            "agent": row.agent,
            "created_at": row.created_at,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "last_event": last.event if last else None,
            "error": row.error,
            "cancel_requested": row.cancel_requested,
        }
    )


def events(session: Session, actor: Actor, job_id: str) -> list[wire.JobEvent]:
    """Those of the newest attempt, in order."""
    row = find(session, actor, job_id)
    newest = session.scalar(select(func.max(JobEventRow.epoch)).where(JobEventRow.job_id == row.id))
    rows = session.scalars(
        select(JobEventRow)
        .where(JobEventRow.job_id == row.id, JobEventRow.epoch == newest)
        .order_by(JobEventRow.seq.desc())
        .limit(_MAX_EVENTS)
    )
    return [wire.JobEvent.model_validate(event.event) for event in reversed(rows.all())]


def log(session: Session, actor: Actor, job_id: str, offset: int) -> wire.LogTail:
    """What follows byte `offset` of the log of all attempts, some hundred kilobytes at most."""
    row = find(session, actor, job_id)
    pieces = session.scalars(
        select(JobLogRow)
        .where(JobLogRow.job_id == row.id, JobLogRow.start + JobLogRow.num_bytes > offset)
        .order_by(JobLogRow.start)
    )
    data = b""
    for piece in pieces:
        data += piece.text.encode()[max(0, offset - piece.start) :]
        if len(data) >= _MAX_TAIL_BYTES:
            break
    else:
        return wire.LogTail(
            text=data.decode(errors="ignore"),
            next_offset=offset + len(data),
            final=wire.JobStatus(row.status).final,
        )
    return wire.LogTail(text=data.decode(errors="ignore"), next_offset=offset + len(data), final=False)


def _files(session: Session, job_id: str, role: str) -> list[wire.FileEntry]:
    rows = session.scalars(
        select(JobFileRow)
        .where(JobFileRow.job_id == job_id, JobFileRow.role == role)
        .order_by(JobFileRow.path)
    )
    return [_entry(row) for row in rows]


def _entry(row: JobFileRow) -> wire.FileEntry:
    return wire.FileEntry(path=row.path, digest=row.digest, size_bytes=row.size_bytes)
