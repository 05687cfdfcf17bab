"""What happens after *Train & Optimize*: check -> train -> build -> register -> deploy -> notify.

Every step may run twice (a crash interrupts it after its commit), so every step looks first whether its
work is done. A step that cannot succeed raises `StageError`, inside a kept answer: the reason becomes
the run's error.
"""

from __future__ import annotations

import logging
import smtplib
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.accounts import service as accounts
from ignition_hub.auth.actor import Actor, system
from ignition_hub.datasets import service as datasets
from ignition_hub.db import Database
from ignition_hub.db.engine import now, touch
from ignition_hub.endpoints.service import Endpoints
from ignition_hub.errors import HubError
from ignition_hub.foundry.models import RunRow, StageRow
from ignition_hub.inbox import service as inbox
from ignition_hub.inbox.mail import send_mail_of_run
from ignition_hub.jobs import reading
from ignition_hub.jobs.reading import JobState
from ignition_hub.jobs.service import Jobs
from ignition_hub.pipelines.engine import Steps
from ignition_hub.registry import service as registry
from ignition_hub.settings import Settings
from ignition_hub.storage.blobs import BlobStore

logger = logging.getLogger(__name__)

CANCELLED = {"code": "run.cancelled", "message": "The run was cancelled.", "hint": None}
_UNTIL_DONE = 1000
"""Attempts of the last step: a run that cannot end would block its name for ever. The disk may be full."""
_JOB_STAGES = ("check", "train", "build")


class StageError(Exception):
    """A run ends here, for a reason that people can read.

    Args:
        error: A `wire.JobError` as plain data.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.error = error


class RunWorkflow:
    """The workflow and its steps. All effects are in the database."""

    def __init__(
        self, *, db: Database, blobs: BlobStore, jobs: Jobs, endpoints: Endpoints, settings: Settings
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._jobs = jobs
        self._endpoints = endpoints
        self._settings = settings

    async def __call__(self, steps: Steps, run_id: str) -> None:
        error: dict[str, Any] | None = None
        try:
            for stage in _JOB_STAGES:
                done = False
                while not done:
                    job_id, ended = await steps.run(self._submit, run_id, stage)
                    if not ended:
                        await steps.receive(job_id)
                    done = await self._checked(steps, self._collect, run_id, stage)
            engine_id = await self._checked(steps, self._register, run_id)
            if not await self._checked(steps, self._deploy, run_id, engine_id):
                await steps.receive("deploy", timeout_s=self._settings.deploy_timeout_s)
            await self._checked(steps, self._deployed, run_id, engine_id)
        except StageError as stage_error:
            error = stage_error.error
        except Exception:
            logger.exception("run %s: a step failed", run_id)
            error = {
                "code": "run.internal",
                "message": "The Hub could not carry on with this run.",
                "hint": "The Hub's log has the details; start the run again.",
            }
        await steps.run(self._finish, run_id, error, attempts=_UNTIL_DONE)
        try:
            await steps.run(self._send_mail, run_id)
        except (OSError, smtplib.SMTPException) as mail_error:
            logger.warning("run %s: no e-mail: %s", run_id, mail_error)

    @staticmethod
    async def _checked(steps: Steps, step: Any, *arguments: Any) -> Any:
        """The answer of a step that may say that the run ends here."""
        answer = await steps.run(step, *arguments)
        if isinstance(answer, dict):
            raise StageError(answer)
        return answer

    # -------------------------------------------------------------------------------------- stages: jobs

    def _submit(self, run_id: str, stage: str) -> tuple[str, bool]:
        """Submits the stage's job; its id, and whether it has ended already."""
        with self._db.write() as session:
            run = session.get_one(RunRow, run_id, with_for_update=True)
            actor = system(run.organisation_id)
            row = session.get(StageRow, (run_id, stage))
            if row is None:
                if run.cancel_requested:
                    return "", True
                job = getattr(self, f"_submit_{stage}")(session, actor, run)
                row = _begin(session, run, stage, job.id)
            assert row.job_id is not None
            return row.job_id, _state(session, row.job_id).final

    def _submit_check(self, session: Session, _actor: Actor, run: RunRow) -> JobState:
        dataset, version = datasets.find_by_id(session, run.dataset_version_id)
        return datasets.submit_check(session, self._jobs, dataset, version)

    def _submit_train(self, session: Session, _actor: Actor, run: RunRow) -> JobState:
        spec = wire.TrainSpec(
            template=run.template,
            name=run.name,
            budget_s=run.budget_s,
            seed=run.seed,
            settings=run.settings,
        )
        return self._jobs.submit(
            session,
            job_id=f"{run.id}-train",
            organisation_id=run.organisation_id,
            kind=wire.JobKind.TRAIN,
            spec=spec.model_dump(mode="json"),
            inputs=datasets.input_files(session, run.dataset_version_id),
            run_id=run.id,
        )

    def _submit_build(self, session: Session, actor: Actor, run: RunRow) -> JobState:
        train = _state(session, f"{run.id}-train")
        run.model_version_id, number = registry.add_version(
            session, actor, name=run.name, template=run.template, run_id=run.id, train_job=train
        )
        assert train.agent_target is not None, "an agent trained it"
        _, dataset_version = datasets.find_by_id(session, run.dataset_version_id)
        spec = wire.BuildSpec(
            template=run.template,
            name=run.name,
            version=number,
            target=train.agent_target,
            max_drop=run.max_drop,
            run_id=run.id,
            dataset_digest=dataset_version.digest,
        )
        model = [
            file.model_copy(update={"path": f"model/{file.path}"})
            for file in reading.output_files(session, train.id)
        ]
        return self._jobs.submit(
            session,
            job_id=f"{run.id}-build",
            organisation_id=run.organisation_id,
            kind=wire.JobKind.BUILD,
            spec=spec.model_dump(mode="json"),
            inputs=[*datasets.input_files(session, run.dataset_version_id), *model],
            run_id=run.id,
            target=train.agent_target,
        )

    def _collect(self, run_id: str, stage: str) -> bool | dict[str, Any]:
        """Looks at how the stage's job ended: the stage is done, another job is needed, or the run ends."""
        with self._db.write() as session:
            run = session.get_one(RunRow, run_id, with_for_update=True)
            row = session.get(StageRow, (run_id, stage))
            if row is None or run.cancel_requested:
                return CANCELLED
            job = _state(session, row.job_id or "")
            if stage == "check" and job.status != "cancelled" and self._check_as(session, run, job, row):
                return False
            _end(session, row)
            if job.status == "succeeded":
                return (_blocking_findings(job) if stage == "check" else None) or True
            if job.status == "cancelled":
                return CANCELLED
            return job.error or {"code": "job.failed", "message": "The job failed.", "hint": None}

    def _check_as(self, session: Session, run: RunRow, job: JobState, row: StageRow) -> bool:
        """Has the data checked again where its own check was another template's, or failed as such."""
        if job.id == f"{run.id}-check" or (job.result or {}).get("template") == run.template:
            return False
        dataset, version = datasets.find_by_id(session, run.dataset_version_id)
        spec = wire.CheckSpec(dataset=dataset.name, version=version.version, template=run.template)
        row.job_id = self._jobs.submit(
            session,
            job_id=f"{run.id}-check",
            organisation_id=run.organisation_id,
            kind=wire.JobKind.CHECK,
            spec=spec.model_dump(mode="json"),
            inputs=datasets.input_files(session, version.id),
            run_id=run.id,
        ).id
        touch(session, f"run:{run.id}")
        return True

    # ---------------------------------------------------------------------------- stages: the Hub's own

    def _register(self, run_id: str) -> str | dict[str, Any]:
        """The engine's id."""
        with self._db.write() as session:
            run = session.get_one(RunRow, run_id, with_for_update=True)
            if run.cancel_requested:
                return CANCELLED
            row = session.get(StageRow, (run_id, "register")) or _begin(session, run, "register")
            assert run.model_version_id is not None
            try:
                run.engine_id = registry.add_engine(
                    session,
                    system(run.organisation_id),
                    self._blobs,
                    version_id=run.model_version_id,
                    build_job=_state(session, f"{run_id}-build"),
                )
            except HubError as error:
                return _problem(error)
            _end(session, row)
            return run.engine_id

    def _deploy(self, run_id: str, engine_id: str) -> bool | dict[str, Any]:
        """Points the endpoint at the engine; whether the gateway serves it already."""
        with self._db.write() as session:
            run = session.get_one(RunRow, run_id, with_for_update=True)
            if run.cancel_requested:
                return CANCELLED
            if session.get(StageRow, (run_id, "deploy")) is None:
                _begin(session, run, "deploy")
            try:
                status = self._endpoints.deploy(
                    session,
                    system(run.organisation_id),
                    name=run.name,
                    engine_id=engine_id,
                    run_id=run_id,
                )
            except HubError as error:
                return _problem(error)
            return status == "ready"

    def _deployed(self, run_id: str, engine_id: str) -> dict[str, Any] | None:
        """Whether the gateway serves the engine now; if it does not, the deployment is taken back."""
        with self._db.write() as session:
            run = session.get_one(RunRow, run_id, with_for_update=True)
            row = session.get_one(StageRow, (run_id, "deploy"))
            status, error = self._endpoints.state(session, run.name, engine_id)
            if status == "ready":
                run.endpoint = run.name
                _end(session, row)
                return None
            self._endpoints.undo(session, system(run.organisation_id), run.name, engine_id)
            if run.cancel_requested:
                return CANCELLED
            if status == "gone":
                return {
                    "code": "endpoint.gone",
                    "message": "The endpoint was deleted or given another engine while it was deployed.",
                    "hint": "Start the run again.",
                }
            if error is not None:
                return error.model_dump(mode="json")
            return {
                "code": "endpoint.timeout",
                "message": f"The gateway was not ready in {self._settings.deploy_timeout_s:.0f} s.",
                "hint": "Is the gateway running? `ignition status` says; its log is logs/gateway.log.",
            }

    def _finish(self, run_id: str, error: dict[str, Any] | None) -> None:
        """The run's end and its news, in one commit."""
        with self._db.write() as session:
            run = session.get_one(RunRow, run_id, with_for_update=True)
            if run.status != "running":
                return
            moment = now(session)
            if error is None:
                run.status = "succeeded"
            else:
                run.status = "cancelled" if error["code"] == CANCELLED["code"] else "failed"
                run.error = error
            run.finished_at = moment
            session.add(StageRow(run_id=run_id, id="notify", started_at=moment, finished_at=moment))
            self._write_news(session, run)
            touch(session, f"run:{run_id}")

    def _write_news(self, session: Session, run: RunRow) -> None:
        if run.status == "cancelled":
            return  # whoever cancelled it knows
        if run.status == "succeeded":
            kind, title = "run_succeeded", f"{run.name} is live"
            body = _good_news(session, run)
        else:
            assert run.error is not None
            kind, title = "run_failed", f"{run.name} failed"
            body = " ".join(filter(None, (run.error["message"], run.error.get("hint"))))
        settings = self._settings
        receivers = settings.smtp_to or accounts.email_of(session, run.user_id) or ""
        inbox.add(
            session,
            system(run.organisation_id),
            run_id=run.id,
            kind=kind,
            title=title,
            body=body,
            link=f"/runs/{run.id}",
            receivers=receivers if settings.smtp_host else "",
            mail_domain=urlsplit(settings.resolved_public_url).hostname or "localhost",
            mail_link=f"{settings.resolved_public_url}/runs/{run.id}",
        )

    def _send_mail(self, run_id: str) -> bool:
        return send_mail_of_run(self._db, self._settings, run_id)


def _begin(session: Session, run: RunRow, stage: str, job_id: str | None = None) -> StageRow:
    row = StageRow(run_id=run.id, id=stage, job_id=job_id, started_at=now(session))
    session.add(row)
    touch(session, f"run:{run.id}")
    return row


def _end(session: Session, row: StageRow) -> None:
    row.finished_at = row.finished_at or now(session)
    touch(session, f"run:{row.run_id}")


def _state(session: Session, job_id: str) -> JobState:
    """The job, locked, so that its end cannot slip by unseen."""
    return reading.locked_state(session, job_id)


def _problem(error: HubError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _blocking_findings(job: JobState) -> dict[str, Any] | None:
    report = wire.CheckReport.model_validate(job.result)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if not errors:
        return None
    return {
        "code": "dataset.blocked",
        "message": "The data cannot be used as it is: " + "; ".join(error.title for error in errors) + ".",
        "hint": errors[0].hint,
    }


def _good_news(session: Session, run: RunRow) -> str:
    jobs = reading.states(session, [f"{run.id}-train", f"{run.id}-build"])
    train = wire.TrainResult.model_validate(jobs[f"{run.id}-train"].result)
    build = wire.BuildResult.model_validate(jobs[f"{run.id}-build"].result)
    parts = [
        f"{train.metric} {build.engine_value:.3f} on a test part of {train.num_test}",
        f"{build.backend} {build.precision}, {build.latency_ms:.1f} ms per request",
    ]
    if build.speedup is not None:
        parts.append(f"{build.speedup:.1f}x the requests per second of the plain torch pipeline")
    return f"The endpoint '{run.name}' answers requests: " + "; ".join(parts) + "."
