"""Models, their versions and engines."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.accounts import service as accounts
from ignition_hub.audit import service as audit
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor
from ignition_hub.db.engine import now
from ignition_hub.errors import HubError, NotFoundError
from ignition_hub.ids import new_id
from ignition_hub.jobs import reading as jobs
from ignition_hub.jobs.reading import JobState
from ignition_hub.registry.models import EngineRow, ModelRow, ModelVersionRow
from ignition_hub.storage.blobs import BlobStore


def add_version(
    session: Session, actor: Actor, *, name: str, template: str, run_id: str, train_job: JobState
) -> tuple[str, int]:
    """The trained model of a run as the newest version of model `name`; once per run.

    Returns:
        The version's id and number.
    """
    row = session.scalar(select(ModelVersionRow).where(ModelVersionRow.run_id == run_id))
    if row is None:
        model = session.scalar(_models_of(actor).where(ModelRow.name == name).with_for_update())
        if model is None:
            model = ModelRow(
                id=new_id(),
                organisation_id=actor.organisation_id,
                name=name,
                template=template,
                created_at=now(session),
            )
            session.add(model)
            session.flush()
        result = wire.TrainResult.model_validate(train_job.result)
        newest = session.scalar(
            select(func.max(ModelVersionRow.version)).where(ModelVersionRow.model_id == model.id)
        )
        row = ModelVersionRow(
            id=new_id(),
            model_id=model.id,
            version=(newest or 0) + 1,
            run_id=run_id,
            train_job_id=train_job.id,
            metric=result.metric,
            value=result.value,
            created_at=now(session),
        )
        session.add(row)
        session.flush()
        audit.record(session, actor, "model.version", f"{name}/{row.version}")
    return row.id, row.version


def add_engine(
    session: Session, actor: Actor, blobs: BlobStore, *, version_id: str, build_job: JobState
) -> str:
    """What a build job left as the model's current engine for its target; once per job.

    Returns:
        The engine's id.

    Raises:
        HubError: The job did not leave what it said.
    """
    row = session.scalar(select(EngineRow).where(EngineRow.job_id == build_job.id))
    if row is not None:
        return row.id
    result = wire.BuildResult.model_validate(build_job.result)
    engine_file = jobs.find_output(session, build_job.id, result.engine_file)
    receipt_file = jobs.find_output(session, build_job.id, "receipt.json")
    if engine_file is None or receipt_file is None or engine_file.digest != result.engine_digest:
        raise EngineMissingError("The build job's outputs are not what its result says.", value=build_job.id)
    receipt: dict[str, Any] = json.loads(blobs.read(actor.organisation_id, receipt_file.digest))
    version = session.get_one(ModelVersionRow, version_id)
    session.execute(
        update(EngineRow)
        .where(EngineRow.model_id == version.model_id, EngineRow.target == result.target)
        .values(current=False)
    )
    row = EngineRow(
        id=new_id(),
        model_id=version.model_id,
        version_id=version.id,
        run_id=version.run_id,
        job_id=build_job.id,
        target=result.target,
        digest=engine_file.digest,
        size_bytes=engine_file.size_bytes,
        result=build_job.result or {},
        receipt=receipt,
        public_key_pem=build_job.public_key_pem or "",
        current=True,
        created_at=now(session),
    )
    session.add(row)
    session.flush()
    audit.record(session, actor, "engine.register", row.id)
    return row.id


class EngineMissingError(HubError):
    """A build job did not leave the engine that it announced."""

    code = "engine.missing"
    default_hint = "Start the run again; if it happens twice, the agent's version does not fit the Hub's."


def list_models(session: Session, actor: Actor) -> list[wire.Model]:
    policy.require(actor, "read")
    rows = session.scalars(_models_of(actor).order_by(ModelRow.created_at.desc(), ModelRow.name))
    return [_model(session, row) for row in rows]


def show_model(session: Session, actor: Actor, owner: str, name: str) -> wire.Model:
    """
    Raises:
        NotFoundError: No such model.
    """
    policy.require(actor, "read")
    row = session.scalar(_models_of(actor).where(ModelRow.name == name))
    if row is None or owner != accounts.organisation_name(session, actor.organisation_id):
        raise NotFoundError("There is no such model.", value=f"{owner}/{name}")
    return _model(session, row)


def list_engines(session: Session, actor: Actor) -> list[wire.Engine]:
    policy.require(actor, "read")
    rows = session.execute(_engines_of(actor).order_by(EngineRow.created_at.desc(), EngineRow.id))
    owner = accounts.organisation_name(session, actor.organisation_id)
    return [wire.Engine.model_validate(_engine(owner, *row)) for row in rows]


def show_engine(session: Session, actor: Actor, engine_id: str) -> wire.EngineDetail:
    """
    Raises:
        NotFoundError: No such engine.
    """
    policy.require(actor, "read")
    found = session.execute(_engines_of(actor).where(EngineRow.id == engine_id)).first()
    if found is None:
        raise NotFoundError("There is no such engine.", value=engine_id)
    owner = accounts.organisation_name(session, actor.organisation_id)
    engine = found[0]
    return wire.EngineDetail.model_validate(
        {**_engine(owner, *found), "receipt": engine.receipt, "public_key_pem": engine.public_key_pem}
    )


def version_name(session: Session, version_id: str) -> tuple[str, int]:
    """``owner/name`` and the number of a model version."""
    version = session.get_one(ModelVersionRow, version_id)
    model = session.get_one(ModelRow, version.model_id)
    owner = accounts.organisation_name(session, model.organisation_id)
    return f"{owner}/{model.name}", version.version


def _models_of(actor: Actor):  # type: ignore[no-untyped-def]
    return select(ModelRow).where(ModelRow.organisation_id == actor.organisation_id)


def _engines_of(actor: Actor):  # type: ignore[no-untyped-def]
    return (
        select(EngineRow, ModelVersionRow, ModelRow)
        .join(ModelVersionRow, ModelVersionRow.id == EngineRow.version_id)
        .join(ModelRow, ModelRow.id == EngineRow.model_id)
        .where(ModelRow.organisation_id == actor.organisation_id)
    )


def _model(session: Session, row: ModelRow) -> wire.Model:
    newest = session.scalars(
        select(ModelVersionRow)
        .where(ModelVersionRow.model_id == row.id)
        .order_by(ModelVersionRow.version.desc())
        .limit(1)
    ).one()
    return wire.Model(
        name=f"{accounts.organisation_name(session, row.organisation_id)}/{row.name}",
        template=row.template,
        latest_version=newest.version,
        created_at=row.created_at,
        metric=newest.metric,
        value=newest.value,
    )


def _engine(owner: str, row: EngineRow, version: ModelVersionRow, model: ModelRow) -> dict[str, Any]:
    shared = (
        "target",
        "backend",
        "precision",
        "latency_ms",
        "throughput_per_s",
        "metric",
        "source_value",
        "engine_value",
    )
    return {
        **{name: row.result[name] for name in shared},
        "id": row.id,
        "model": f"{owner}/{model.name}",
        "model_version": version.version,
        "digest": row.digest,
        "size_bytes": row.size_bytes,
        "current": row.current,
        "created_at": row.created_at,
        "run_id": row.run_id,
    }
