"""What an agent reports while it works: the log by offset, events by number."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.auth.actor import Actor
from ignition_hub.db.engine import touch
from ignition_hub.errors import BadRequestError
from ignition_hub.jobs.models import JobEventRow, JobLogRow
from ignition_hub.jobs.service import Jobs

MAX_LOG_BYTES = 64 * 1024**2
MAX_SEQ = 1_000_000


def append_log(session: Session, actor: Actor, jobs: Jobs, job_id: str, chunk: wire.LogChunk) -> None:
    """Adds what is new in `chunk`; text that is there already is not added again.

    Raises:
        StaleLeaseError: The lease is over.
        BadRequestError: There would be a gap, or the log is too long.
    """
    row = jobs.leased(session, actor, job_id, chunk.epoch)
    here = select(func.max(JobLogRow.epoch_start + JobLogRow.num_bytes)).where(
        JobLogRow.job_id == job_id, JobLogRow.epoch == chunk.epoch
    )
    end = session.scalar(here) or 0
    if chunk.offset > end:
        raise BadRequestError(f"The log ends at byte {end}; there would be a gap.", value=str(chunk.offset))
    # A NUL has no place in PostgreSQL's text; a space keeps the offsets.
    data = chunk.text.replace("\0", " ").encode()[end - chunk.offset :]
    if not data:
        return
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadRequestError("The chunk overlaps the log in the middle of a character.") from error
    total = select(func.max(JobLogRow.start + JobLogRow.num_bytes)).where(JobLogRow.job_id == job_id)
    start = session.scalar(total) or 0
    if start + len(data) > MAX_LOG_BYTES:
        raise BadRequestError(f"A log may have at most {MAX_LOG_BYTES:,} bytes.", value=start + len(data))
    session.add(
        JobLogRow(
            job_id=job_id, start=start, epoch=chunk.epoch, epoch_start=end, num_bytes=len(data), text=text
        )
    )
    if row.run_id:
        touch(session, f"run:{row.run_id}")


def add_events(session: Session, actor: Actor, jobs: Jobs, job_id: str, batch: wire.EventBatch) -> None:
    """Adds the events whose number is new.

    Raises:
        StaleLeaseError: The lease is over.
        BadRequestError: A number is out of range.
    """
    row = jobs.leased(session, actor, job_id, batch.epoch)
    if any(not 0 <= event.seq < MAX_SEQ for event in batch.events):
        raise BadRequestError(f"An event's number is between 0 and {MAX_SEQ - 1:,}.")
    known = set(
        session.scalars(
            select(JobEventRow.seq).where(JobEventRow.job_id == job_id, JobEventRow.epoch == batch.epoch)
        )
    )
    for event in batch.events:
        if event.seq not in known:
            known.add(event.seq)
            session.add(
                JobEventRow(
                    job_id=job_id, epoch=batch.epoch, seq=event.seq, event=event.model_dump(mode="json")
                )
            )
    if row.run_id:
        touch(session, f"run:{row.run_id}")
