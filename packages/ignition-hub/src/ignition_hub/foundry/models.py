"""Tables of runs and the stages that they went through."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ignition_hub.db import Base


class RunRow(Base):
    __tablename__ = "runs"
    __table_args__ = (UniqueConstraint("organisation_id", "idempotency_key"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"), index=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(63))
    template: Mapped[str] = mapped_column(String(63))
    dataset_version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    budget_s: Mapped[float]
    max_drop: Mapped[float]
    seed: Mapped[int]
    settings: Mapped[dict[str, Any]]
    idempotency_key: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    model_version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    engine_id: Mapped[str | None] = mapped_column(ForeignKey("engines.id"))
    endpoint: Mapped[str | None] = mapped_column(String(63))


class StageRow(Base):
    """A stage that has begun. One with a job has the job's status; else it is done when it is finished."""

    __tablename__ = "run_stages"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
