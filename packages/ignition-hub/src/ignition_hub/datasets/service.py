"""Datasets: committing versions of uploaded files, listing and showing them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_client.errors import UnsafePathError as ClientUnsafePathError
from ignition_client.paths import safe_relative_path
from ignition_hub.audit import service as audit
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor
from ignition_hub.datasets.models import DatasetFileRow, DatasetRow, DatasetVersionRow
from ignition_hub.db.engine import now
from ignition_hub.errors import BadRequestError, ConflictError, NotFoundError, UnsafePathError
from ignition_hub.ids import new_id
from ignition_hub.jobs import reading as job_reading
from ignition_hub.jobs.service import Jobs, JobState
from ignition_hub.storage import service as storage

MAX_FILES = 200_000
MAX_VERSION = 2**31 - 1


def commit(session: Session, actor: Actor, jobs: Jobs, request: wire.DatasetCommit) -> wire.DatasetDetail:
    """Makes uploaded files the newest version and has them checked.

    The same files under the same name are the version that there is already.

    Raises:
        BadRequestError: No files, too many, a path twice, or a size that is not the blob's.
        UnsafePathError: A path that may not be.
        ConflictError: Some blobs were not uploaded.
    """
    policy.require(actor, "dataset.commit")
    files = _checked_files(session, actor, request.files)
    digest = _manifest_digest(files)
    dataset = session.scalar(_datasets_of(actor).where(DatasetRow.name == request.name).with_for_update())
    moment = now(session)
    if dataset is None:
        dataset = DatasetRow(
            id=new_id(), organisation_id=actor.organisation_id, name=request.name, created_at=moment
        )
        session.add(dataset)
        session.flush()
    version = session.scalar(
        select(DatasetVersionRow).where(
            DatasetVersionRow.dataset_id == dataset.id, DatasetVersionRow.digest == digest
        )
    )
    if version is None:
        newest = session.scalar(
            select(func.max(DatasetVersionRow.version)).where(DatasetVersionRow.dataset_id == dataset.id)
        )
        version_id = new_id()
        version = DatasetVersionRow(
            id=version_id,
            dataset_id=dataset.id,
            version=(newest or 0) + 1,
            digest=digest,
            num_files=len(files),
            size_bytes=sum(file.size_bytes for file in files),
            created_at=moment,
            check_job_id=f"check-{version_id}",
        )
        session.add(version)
        session.flush()
        session.execute(
            insert(DatasetFileRow), [{"version_id": version.id, **file.model_dump()} for file in files]
        )
        audit.record(session, actor, "dataset.commit", f"{dataset.name}/{version.version}")
    submit_check(session, jobs, dataset, version)
    return _detail(session, dataset, version)


def submit_check(session: Session, jobs: Jobs, dataset: DatasetRow, version: DatasetVersionRow) -> JobState:
    """The version's check job: submitted once, and again after one that failed."""
    return jobs.submit(
        session,
        job_id=version.check_job_id,
        organisation_id=dataset.organisation_id,
        kind=wire.JobKind.CHECK,
        spec=wire.CheckSpec(dataset=dataset.name, version=version.version).model_dump(mode="json"),
        inputs=input_files(session, version.id),
        again=True,
    )


def list_datasets(session: Session, actor: Actor) -> list[wire.Dataset]:
    """The newest version of each, newest first."""
    policy.require(actor, "read")
    newest = (
        select(DatasetVersionRow.dataset_id, func.max(DatasetVersionRow.version).label("version"))
        .group_by(DatasetVersionRow.dataset_id)
        .subquery()
    )
    rows = session.execute(
        select(DatasetRow, DatasetVersionRow)
        .join(DatasetVersionRow, DatasetVersionRow.dataset_id == DatasetRow.id)
        .join(
            newest,
            (newest.c.dataset_id == DatasetVersionRow.dataset_id)
            & (newest.c.version == DatasetVersionRow.version),
        )
        .where(DatasetRow.organisation_id == actor.organisation_id)
        .order_by(DatasetVersionRow.created_at.desc(), DatasetRow.name)
    ).all()
    jobs = job_reading.states(session, (version.check_job_id for _, version in rows))
    return [
        wire.Dataset.model_validate(_summary(dataset, version, jobs.get(version.check_job_id)))
        for dataset, version in rows
    ]


def show(session: Session, actor: Actor, name: str, version: int | None = None) -> wire.DatasetDetail:
    """
    Raises:
        NotFoundError: No such dataset or version.
    """
    policy.require(actor, "read")
    return _detail(session, *find(session, actor, name, version))


def find(
    session: Session, actor: Actor, name: str, version: int | None = None
) -> tuple[DatasetRow, DatasetVersionRow]:
    """A dataset and one of its versions: the newest when `version` is None.

    Raises:
        NotFoundError: No such dataset or version.
    """
    dataset = session.scalar(_datasets_of(actor).where(DatasetRow.name == name))
    if dataset is None:
        raise NotFoundError("There is no such dataset.", value=name)
    query = select(DatasetVersionRow).where(DatasetVersionRow.dataset_id == dataset.id)
    if version is not None:
        query = query.where(DatasetVersionRow.version == max(0, min(version, MAX_VERSION)))
    row = session.scalars(query.order_by(DatasetVersionRow.version.desc()).limit(1)).first()
    if row is None:
        raise NotFoundError(f"'{name}' has no such version.", value=version)
    return dataset, row


def find_by_id(session: Session, version_id: str) -> tuple[DatasetRow, DatasetVersionRow]:
    version = session.get_one(DatasetVersionRow, version_id)
    return session.get_one(DatasetRow, version.dataset_id), version


@dataclass(frozen=True)
class DatasetFile:
    path: str
    digest: str
    size_bytes: int


def find_file(session: Session, actor: Actor, name: str, version: int | None, path: str) -> DatasetFile:
    """
    Raises:
        NotFoundError: No such dataset, version or file.
    """
    policy.require(actor, "read")
    _, row = find(session, actor, name, version)
    file = session.get(DatasetFileRow, (row.id, path))
    if file is None:
        raise NotFoundError("There is no such file in this dataset.", value=path)
    return DatasetFile(file.path, file.digest, file.size_bytes)


def input_files(session: Session, version_id: str) -> list[wire.FileEntry]:
    """The version's files where a job finds them: below ``dataset/``."""
    rows = session.scalars(
        select(DatasetFileRow).where(DatasetFileRow.version_id == version_id).order_by(DatasetFileRow.path)
    )
    return [
        wire.FileEntry(path=f"dataset/{row.path}", digest=row.digest, size_bytes=row.size_bytes)
        for row in rows
    ]


def _datasets_of(actor: Actor):  # type: ignore[no-untyped-def]
    return select(DatasetRow).where(DatasetRow.organisation_id == actor.organisation_id)


def _checked_files(session: Session, actor: Actor, files: list[wire.FileEntry]) -> list[wire.FileEntry]:
    if not files:
        raise BadRequestError("A dataset has at least one file.", hint="Choose a folder or a file.")
    if len(files) > MAX_FILES:
        raise BadRequestError(f"A dataset has at most {MAX_FILES:,} files.", value=len(files))
    checked: dict[str, wire.FileEntry] = {}
    for file in files:
        try:
            path = safe_relative_path(file.path)
            if len(path) > 1000:
                raise ClientUnsafePathError("The path is too long.", value=path[:100])
        except ClientUnsafePathError as error:
            raise UnsafePathError(error.message, value=error.value) from error
        if path in checked:
            raise BadRequestError("A path occurs twice.", value=path)
        checked[path] = file.model_copy(update={"path": path})
    for path in checked:
        parts = path.split("/")
        clash = next((p for i in range(1, len(parts)) if (p := "/".join(parts[:i])) in checked), None)
        if clash is not None:
            raise BadRequestError("A path is a file and a folder at once.", value=clash)
    sizes = storage.sizes(session, actor.organisation_id, (file.digest for file in files))
    missing = {file.digest for file in files} - sizes.keys()
    if missing:
        raise ConflictError(
            f"{len(missing)} of the files were not uploaded.",
            value=sorted(missing)[:10],
            hint="Ask /v1/blobs/missing, upload those, and commit again.",
        )
    wrong = next((file for file in files if file.size_bytes != sizes[file.digest]), None)
    if wrong is not None:
        raise BadRequestError(f"The file has {sizes[wrong.digest]:,} bytes.", value=wrong.size_bytes)
    return sorted(checked.values(), key=lambda file: file.path)


def _manifest_digest(files: list[wire.FileEntry]) -> str:
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(f"{file.digest} {file.path}\n".encode())
    return f"sha256:{sha256.hexdigest()}"


_CHECK_STATUS: dict[str, str] = {"queued": "pending", "leased": "running", "succeeded": "done"}


def _summary(dataset: DatasetRow, version: DatasetVersionRow, job: JobState | None) -> dict[str, object]:
    return {
        "name": dataset.name,
        "version": version.version,
        "digest": version.digest,
        "num_files": version.num_files,
        "size_bytes": version.size_bytes,
        "created_at": version.created_at,
        "check_status": _CHECK_STATUS.get(job.status, "failed") if job else "pending",
    }


def _detail(session: Session, dataset: DatasetRow, version: DatasetVersionRow) -> wire.DatasetDetail:
    job = job_reading.states(session, [version.check_job_id]).get(version.check_job_id)
    files = session.scalars(
        select(DatasetFileRow).where(DatasetFileRow.version_id == version.id).order_by(DatasetFileRow.path)
    )
    return wire.DatasetDetail.model_validate(
        {
            **_summary(dataset, version, job),
            "files": [
                wire.FileEntry.model_construct(path=f.path, digest=f.digest, size_bytes=f.size_bytes)
                for f in files
            ],
            "check": job.result if job and job.status == "succeeded" else None,
            "check_error": job.error if job else None,
        }
    )
