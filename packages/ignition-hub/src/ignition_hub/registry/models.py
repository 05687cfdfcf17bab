"""Tables of models, their versions and engines."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from ignition_hub.db import Base


class ModelRow(Base):
    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("organisation_id", "name"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    name: Mapped[str] = mapped_column(String(63))
    template: Mapped[str] = mapped_column(String(63))
    created_at: Mapped[datetime]


class ModelVersionRow(Base):
    """A trained model; made once its training is done, one per run."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "version"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    version: Mapped[int]
    run_id: Mapped[str] = mapped_column(String(32), unique=True)
    train_job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    metric: Mapped[str] = mapped_column(String(64))
    value: Mapped[float]
    created_at: Mapped[datetime]


class EngineRow(Base):
    """At most one engine per model and target is current."""

    __tablename__ = "engines"
    __table_args__ = (
        Index(
            "uq_engines_current",
            "model_id",
            "target",
            unique=True,
            sqlite_where=text("current"),
            postgresql_where=text("current"),
        ),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    run_id: Mapped[str | None] = mapped_column(String(32))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    target: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(71))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[dict[str, Any]]
    receipt: Mapped[dict[str, Any]]
    public_key_pem: Mapped[str] = mapped_column(Text)
    current: Mapped[bool]
    created_at: Mapped[datetime]
