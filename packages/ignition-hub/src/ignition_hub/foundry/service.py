"""Runs: starting, showing, cancelling. What a run's page shows is derived from rows, here."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.audit import service as audit
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor
from ignition_hub.datasets import service as datasets
from ignition_hub.db.engine import now, touch
from ignition_hub.errors import BadRequestError, ConflictError, NotFoundError
from ignition_hub.foundry.models import RunRow, StageRow
from ignition_hub.foundry.templates import check_settings, require_template
from ignition_hub.ids import new_id
from ignition_hub.jobs import reading as jobs
from ignition_hub.jobs.reading import JobState
from ignition_hub.jobs.service import Jobs
from ignition_hub.pipelines.engine import Pipelines
from ignition_hub.registry import service as registry
from ignition_hub.storage.blobs import BlobStore

WORKFLOW = "foundry.run"
STAGES: dict[str, str] = {
    "check": "Check data",
    "train": "Train",
    "build": "Optimize",
    "register": "Sign & register",
    "deploy": "Deploy",
    "notify": "Notify",
}
_MAX_SEED = 2**31 - 1


class Foundry:
    """Starts and stops runs."""

    def __init__(self, jobs: Jobs, pipelines: Pipelines) -> None:
        self._jobs = jobs
        self._pipelines = pipelines

    def start(self, session: Session, actor: Actor, request: wire.RunStart) -> wire.Run:
        """One press of *Train & Optimize*; the same idempotency key again answers with the run there is.

        Raises:
            BadRequestError: No such template, or a value out of range.
            NotFoundError: No such dataset.
            ConflictError: A run of this name is at work.
        """
        policy.require(actor, "run.start")
        if request.idempotency_key is not None:
            known = session.scalar(
                select(RunRow).where(
                    RunRow.organisation_id == actor.organisation_id,
                    RunRow.idempotency_key == request.idempotency_key,
                )
            )
            if known is not None:
                return show(session, actor, known.id)
        template = require_template(request.template)
        check_settings(template, request.settings)
        if not 0 <= request.seed <= _MAX_SEED:
            raise BadRequestError(f"A seed is between 0 and {_MAX_SEED}.", value=str(request.seed))
        _, version = datasets.find(session, actor, request.dataset, request.dataset_version)
        active = session.scalar(
            select(RunRow.id).where(
                RunRow.organisation_id == actor.organisation_id,
                RunRow.name == request.name,
                RunRow.status == "running",
            )
        )
        if active is not None:
            raise ConflictError(
                f"A run named '{request.name}' is at work.",
                value=active,
                hint="Wait for it, cancel it, or choose another name.",
            )
        row = RunRow(
            id=new_id(),
            organisation_id=actor.organisation_id,
            user_id=actor.user_id,
            name=request.name,
            template=template.id,
            dataset_version_id=version.id,
            budget_s=request.budget_s or template.budget_s,
            max_drop=request.max_drop,
            seed=request.seed,
            settings=request.settings,
            idempotency_key=request.idempotency_key,
            status="running",
            created_at=now(session),
        )
        session.add(row)
        session.flush()
        self._pipelines.submit(session, WORKFLOW, row.id)
        audit.record(session, actor, "run.start", f"{row.name}/{row.id}")
        return show(session, actor, row.id)

    def cancel(self, session: Session, actor: Actor, run_id: str) -> wire.Run:
        """Asks a run to end; its job is stopped by its agent. Asking again changes nothing.

        Raises:
            NotFoundError: No such run.
            ConflictError: It has ended.
        """
        policy.require(actor, "run.cancel")
        row = find(session, actor, run_id)
        if row.status != "running":
            raise ConflictError("The run has ended.", value=row.status)
        if not row.cancel_requested:
            row.cancel_requested = True
            audit.record(session, actor, "run.cancel", run_id)
            for stage in session.scalars(
                select(StageRow).where(StageRow.run_id == run_id, StageRow.finished_at.is_(None))
            ):
                job = jobs.states(session, [stage.job_id]).get(stage.job_id) if stage.job_id else None
                if job is not None and job.run_id == run_id and not job.final:
                    self._jobs.cancel(session, actor, job.id)
                else:
                    self._pipelines.tell(session, run_id, topic_of(stage), "cancelled")
            touch(session, f"run:{run_id}")
        return show(session, actor, run_id)

    def job_ended(self, session: Session, job: JobState) -> None:
        """Tells the workflows that wait for this job."""
        waiting = select(StageRow).where(StageRow.job_id == job.id, StageRow.finished_at.is_(None))
        for stage in session.scalars(waiting):
            self._pipelines.tell(session, stage.run_id, job.id, job.status)
            touch(session, f"run:{stage.run_id}")

    def endpoint_changed(self, session: Session, run_id: str, engine_id: str, status: str) -> None:
        """Tells the workflow that waits for this deployment."""
        stage = session.get(StageRow, (run_id, "deploy"))
        if stage is not None and stage.finished_at is None:
            self._pipelines.tell(session, run_id, topic_of(stage), f"{status} {engine_id}")


def topic_of(stage: StageRow) -> str:
    """What the workflow listens to while this stage lasts."""
    return stage.job_id or stage.id


def list_runs(session: Session, actor: Actor) -> list[wire.Run]:
    """Newest first, at most 200."""
    policy.require(actor, "read")
    rows = session.scalars(
        select(RunRow)
        .where(RunRow.organisation_id == actor.organisation_id)
        .order_by(RunRow.created_at.desc(), RunRow.id)
        .limit(200)
    ).all()
    return [_run(session, row) for row in rows]


def show(session: Session, actor: Actor, run_id: str) -> wire.Run:
    return _run(session, find(session, actor, run_id))


def find(session: Session, actor: Actor, run_id: str) -> RunRow:
    """
    Raises:
        NotFoundError: No such run.
    """
    policy.require(actor, "read")
    row = session.get(RunRow, run_id)
    if row is None or row.organisation_id != actor.organisation_id:
        raise NotFoundError("There is no such run.", value=run_id)
    return row


def snapshot(session: Session, actor: Actor, run_id: str) -> wire.RunSnapshot:
    """All that a live page shows: the run and the jobs of its stages, in order."""
    run = show(session, actor, run_id)
    ids = [stage.job_id for stage in run.stages if stage.job_id]
    return wire.RunSnapshot(run=run, jobs=[jobs.show(session, actor, job_id) for job_id in ids])


def report(session: Session, actor: Actor, blobs: BlobStore, run_id: str) -> dict[str, Any]:
    """The training's ``report.json``.

    Raises:
        NotFoundError: There is no such run, or no report yet.
    """
    file = report_file(session, actor, run_id, "report.json")
    found: dict[str, Any] = json.loads(blobs.read(actor.organisation_id, file.digest))
    return found


def report_file(session: Session, actor: Actor, run_id: str, path: str) -> wire.FileEntry:
    """A file that the training left.

    Raises:
        NotFoundError: There is no such run or file.
    """
    find(session, actor, run_id)
    stage = session.get(StageRow, (run_id, "train"))
    file = jobs.find_output(session, stage.job_id, path) if stage and stage.job_id else None
    if file is None:
        raise NotFoundError("The run has no such file (yet).", value=path)
    return file


# ---------------------------------------------------------------------------------------------- derived


def _run(session: Session, row: RunRow) -> wire.Run:
    rows = {stage.id: stage for stage in session.scalars(select(StageRow).where(StageRow.run_id == row.id))}
    states = jobs.states(session, (stage.job_id for stage in rows.values() if stage.job_id))
    stages = [_stage(row, name, rows.get(name), states) for name in STAGES]
    dataset, version = datasets.find_by_id(session, row.dataset_version_id)
    model, model_version = (
        registry.version_name(session, row.model_version_id) if row.model_version_id else (None, None)
    )
    return wire.Run.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "template": row.template,
            "dataset": dataset.name,
            "dataset_version": version.version,
            "status": row.status,
            "settings": row.settings,
            "stages": stages,
            "created_at": row.created_at,
            "finished_at": row.finished_at,
            "error": row.error,
            "endpoint": row.endpoint,
            "engine_id": row.engine_id,
            "model": model,
            "model_version": model_version,
            "train": _result(rows, states, "train"),
            "build": _result(rows, states, "build"),
        }
    )


def _result(rows: dict[str, StageRow], states: dict[str, JobState], stage: str) -> dict[str, Any] | None:
    row = rows.get(stage)
    job = states.get(row.job_id) if row and row.job_id else None
    return job.result if job and job.status == "succeeded" else None


def _stage(run: RunRow, name: str, row: StageRow | None, states: dict[str, JobState]) -> wire.Stage:
    over = run.status != "running"
    if row is None:
        status = wire.StageStatus.SKIPPED if over else wire.StageStatus.WAITING
        return wire.Stage.model_validate({"id": name, "title": STAGES[name], "status": status})
    if row.finished_at is not None and not _job_failed(row, states):
        status = wire.StageStatus.DONE
    elif row.finished_at is not None or over:
        status = wire.StageStatus.FAILED
    else:
        status = wire.StageStatus.RUNNING
    return wire.Stage.model_validate(
        {
            "id": name,
            "title": STAGES[name],
            "status": status,
            "job_id": row.job_id,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
        }
    )


def _job_failed(row: StageRow, states: dict[str, JobState]) -> bool:
    job = states.get(row.job_id) if row.job_id else None
    return job is not None and job.final and job.status != "succeeded"
