"""Jobs and leases: submitting, claiming, reporting, completing, requeueing.

A lease is the right to work on a job for `lease_s` after its last heartbeat, under an epoch number that
every claim raises. Whatever an agent says carries its epoch; once that is not the job's any more, the
answer is 409 and nothing changes. Only the database's clock decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import insert, or_, select
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.audit import service as audit
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor
from ignition_hub.auth.tokens import new_token, sha256_hex
from ignition_hub.db.engine import now, touch
from ignition_hub.errors import BadRequestError, ConflictError, NotFoundError, StaleLeaseError
from ignition_hub.jobs.models import JobFileRow, JobRow, LeaseRow
from ignition_hub.jobs.reading import JobState, find, input_files, state_of
from ignition_hub.storage import service as storage

ALLOWED_KINDS: tuple[wire.JobKind, ...] = tuple(wire.JobKind)
"""What agents of the farm may be given, whatever they say they can do."""

_RESULTS: dict[wire.JobKind, type[wire.Answer]] = {
    wire.JobKind.CHECK: wire.CheckReport,
    wire.JobKind.TRAIN: wire.TrainResult,
    wire.JobKind.BUILD: wire.BuildResult,
}

__all__ = ["ALLOWED_KINDS", "JobState", "Jobs"]


class Jobs:
    """
    Args:
        lease_s: How long a lease lasts without a heartbeat.
        max_attempts: Leases that a job may use up before it fails.
    """

    def __init__(self, *, lease_s: float, max_attempts: int) -> None:
        self._lease = timedelta(seconds=lease_s)
        self._max_attempts = max_attempts
        self.on_end: Callable[[Session, JobState], None] = lambda *_: None
        """Called in the transaction that makes a job final: who waits for it is told in one commit."""

    # ------------------------------------------------------------------------------- the Hub's own side

    def submit(
        self,
        session: Session,
        *,
        job_id: str,
        organisation_id: str,
        kind: wire.JobKind,
        spec: dict[str, Any],
        inputs: Sequence[wire.FileEntry],
        run_id: str | None = None,
        target: str | None = None,
        again: bool = False,
    ) -> JobState:
        """Queues a job; one of that id that there is already is left as it is.

        Args:
            job_id: Derived from what the job is for, so that submitting twice makes one job.
            target: Only agents of this hardware target may have it.
            again: Queue it anew if it failed or was cancelled.
        """
        row = session.get(JobRow, job_id, with_for_update=True)
        if row is None:
            row = JobRow(
                id=job_id,
                organisation_id=organisation_id,
                kind=kind.value,
                status="queued",
                run_id=run_id,
                target=target,
                spec=spec,
                created_at=now(session),
            )
            session.add(row)
            session.flush()
            if inputs:
                values = [{"job_id": job_id, "role": "input", **file.model_dump()} for file in inputs]
                session.execute(insert(JobFileRow), values)
        elif again and row.status in ("failed", "cancelled"):
            row.status, row.attempt = "queued", 0
            row.error = row.result = row.started_at = row.finished_at = None
            row.cancel_requested = False
        self._changed(session, row)
        return state_of(row)

    def cancel(self, session: Session, actor: Actor, job_id: str) -> None:
        """A queued job ends now; one that is worked on when its agent has stopped it.

        Raises:
            NotFoundError: No such job.
            ConflictError: It has ended.
        """
        policy.require(actor, "job.cancel")
        find(session, actor, job_id)
        row = session.get_one(JobRow, job_id, with_for_update=True, populate_existing=True)
        if wire.JobStatus(row.status).final:
            raise ConflictError("The job has ended.", value=row.status)
        row.cancel_requested = True
        audit.record(session, actor, "job.cancel", job_id)
        if row.status == "queued":
            self._end(session, row, "cancelled")
        self._changed(session, row)

    def expired(self, session: Session) -> list[str]:
        """Jobs whose lease has run out."""
        return list(
            session.scalars(
                select(JobRow.id).where(JobRow.status == "leased", JobRow.lease_expires_at <= now(session))
            )
        )

    def requeue_expired(self, session: Session) -> int:
        """Gives jobs of silent agents back to the queue; fails those that have used up their attempts."""
        rows = session.scalars(
            select(JobRow)
            .where(JobRow.status == "leased", JobRow.lease_expires_at <= now(session))
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            self._lost(session, row, f"The agent '{row.agent}' was not heard of any more.")
        return len(rows)

    # -------------------------------------------------------------------------------------- agents' side

    def has_work(self, session: Session, request: wire.LeaseRequest) -> bool:
        """Cheap look before `claim`, which takes the write lock."""
        return session.scalar(self._claimable(request).limit(1)) is not None

    def claim(self, session: Session, actor: Actor, request: wire.LeaseRequest) -> wire.Lease | None:
        """The oldest job that this agent may have, if there is one."""
        policy.require(actor, "job.lease")
        query = self._claimable(request).order_by(JobRow.created_at, JobRow.id).limit(1)
        row = session.scalars(query.with_for_update(skip_locked=True)).first()
        if row is None:
            return None
        moment = now(session)
        row.status = "leased"
        row.epoch += 1
        row.attempt += 1
        row.agent = request.agent
        row.agent_target = request.target[:100]
        row.public_key_pem = request.public_key_pem
        row.started_at = row.started_at or moment
        row.lease_expires_at = moment + self._lease
        token = new_token("ignj")
        session.add(
            LeaseRow(
                token_sha256=sha256_hex(token),
                job_id=row.id,
                epoch=row.epoch,
                agent=request.agent,
                machine=request.machine,
                claimed_at=moment,
            )
        )
        audit.record(session, actor, "job.lease", f"{row.id}/{row.epoch} {request.agent}")
        self._changed(session, row)
        return wire.Lease(
            job_id=row.id,
            kind=wire.JobKind(row.kind),
            epoch=row.epoch,
            attempt=row.attempt,
            token=token,
            lease_s=self._lease.total_seconds(),
            expires_at=row.lease_expires_at,
            spec=row.spec,
            inputs=input_files(session, row.id),
        )

    def authenticate(self, session: Session, token: str) -> Actor | None:
        """Whom a job's token stands for, also after the lease is over (to be told so)."""
        lease = session.get(LeaseRow, sha256_hex(token))
        if lease is None:
            return None
        return Actor(
            kind="job",
            name=f"{lease.agent} for {lease.job_id}",
            organisation_id=session.get_one(JobRow, lease.job_id).organisation_id,
            job_id=lease.job_id,
            epoch=lease.epoch,
        )

    def heartbeat(self, session: Session, actor: Actor, job_id: str, epoch: int) -> wire.HeartbeatAnswer:
        """
        Raises:
            StaleLeaseError: The lease is over.
        """
        row = self.leased(session, actor, job_id, epoch)
        row.lease_expires_at = now(session) + self._lease
        return wire.HeartbeatAnswer(expires_at=row.lease_expires_at, cancel=row.cancel_requested)

    def complete(
        self, session: Session, actor: Actor, job_id: str, completion: wire.JobCompletion
    ) -> wire.JobStatus:
        """The end of an attempt, and of the job unless another attempt may do better.

        Repeating the call that ended the job changes nothing.

        Raises:
            StaleLeaseError: The lease is over.
            BadRequestError: The result or the outputs are not what this kind of job leaves.
        """
        policy.require(actor, "job.report")
        row = session.get(JobRow, job_id, with_for_update=True)
        if (
            row is not None
            and actor.job_id == job_id
            and actor.epoch == completion.epoch == row.epoch
            and wire.JobStatus(row.status).final
        ):
            return wire.JobStatus(row.status)
        row = self.leased(session, actor, job_id, completion.epoch)
        if completion.status == "succeeded":
            self._keep_outputs(session, row, completion.outputs)
            row.result = _result(row, completion.result)
            self._end(session, row, "succeeded")
        elif completion.status == "cancelled" or row.cancel_requested:
            self._end(session, row, "cancelled", completion.error)
        elif completion.retryable:
            why = completion.error.message if completion.error else "The attempt failed."
            self._lost(session, row, why)
        else:
            error = completion.error or wire.JobError(
                code="job.failed", message="The job failed without saying why.", hint="See its log."
            )
            self._end(session, row, "failed", error)
        self._changed(session, row)
        return wire.JobStatus(row.status)

    def release(self, session: Session, actor: Actor, job_id: str, epoch: int) -> None:
        """The agent goes away: the job is queued again, and the attempt does not count.

        Raises:
            StaleLeaseError: The lease is over.
        """
        row = self.leased(session, actor, job_id, epoch)
        if row.cancel_requested:
            self._end(session, row, "cancelled")
        else:
            row.attempt -= 1
            self._queue(row)
        self._changed(session, row)

    def leased(self, session: Session, actor: Actor, job_id: str, epoch: int) -> JobRow:
        """The job, locked, if this lease is still its lease.

        Raises:
            StaleLeaseError: It is not.
            NotFoundError: The token is for another job.
        """
        policy.require(actor, "job.report")
        if actor.job_id != job_id:
            raise NotFoundError("This token is for another job.", value=job_id)
        row = session.get_one(JobRow, job_id, with_for_update=True, populate_existing=True)
        if row.status != "leased" or not (actor.epoch == epoch == row.epoch):
            raise StaleLeaseError(
                f"The job is {row.status} under epoch {row.epoch}.", value=epoch if epoch < 2**31 else None
            )
        return row

    # ------------------------------------------------------------------------------------------- inside

    def _claimable(self, request: wire.LeaseRequest):  # type: ignore[no-untyped-def]
        kinds = [kind.value for kind in request.kinds if kind in ALLOWED_KINDS]
        return select(JobRow).where(
            JobRow.status == "queued",
            JobRow.kind.in_(kinds),
            or_(JobRow.target.is_(None), JobRow.target == request.target),
        )

    def _lost(self, session: Session, row: JobRow, why: str) -> None:
        if row.cancel_requested:
            self._end(session, row, "cancelled")
        elif row.attempt < self._max_attempts:
            self._queue(row)
        else:
            error = wire.JobError(
                code="job.attempts_exhausted",
                message=f"The job was tried {row.attempt} times. The last time: {why}",
                hint="The machine may be short of memory or disk; the end of the job's log says more.",
            )
            self._end(session, row, "failed", error)
        self._changed(session, row)

    @staticmethod
    def _queue(row: JobRow) -> None:
        row.status = "queued"
        row.agent = row.lease_expires_at = None

    def _end(self, session: Session, row: JobRow, status: str, error: wire.JobError | None = None) -> None:
        row.status = status
        row.lease_expires_at = None
        row.finished_at = now(session)
        row.error = error.model_dump(mode="json") if error else None
        session.flush()
        self.on_end(session, state_of(row))

    @staticmethod
    def _changed(session: Session, row: JobRow) -> None:
        touch(session, "jobs", *([f"run:{row.run_id}"] if row.run_id else []))

    @staticmethod
    def _keep_outputs(session: Session, row: JobRow, outputs: Sequence[wire.FileEntry]) -> None:
        paths = [output.path for output in outputs]
        if len(set(paths)) != len(paths):
            raise BadRequestError("An output's path occurs twice.")
        sizes = storage.sizes(session, row.organisation_id, (output.digest for output in outputs))
        for output in outputs:
            if sizes.get(output.digest) != output.size_bytes:
                raise BadRequestError(
                    "An output was not uploaded, or has another size.",
                    value=output.path,
                    hint="PUT it first.",
                )
        if outputs:
            values = [{"job_id": row.id, "role": "output", **output.model_dump()} for output in outputs]
            session.execute(insert(JobFileRow), values)


def _result(row: JobRow, result: dict[str, Any]) -> dict[str, Any]:
    """Checked against the model of its kind; fields of newer agents are kept."""
    try:
        _RESULTS[wire.JobKind(row.kind)].model_validate(result)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequestError(
            f"The result is not that of a {row.kind} job: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        ) from error
    return result
