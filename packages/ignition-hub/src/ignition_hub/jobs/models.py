"""Tables of jobs and of what agents report about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ignition_hub.db import Base


class JobRow(Base):
    """`epoch` is raised by every lease; `attempt` counts the leases that were used up."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_queue", "status", "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    run_id: Mapped[str | None] = mapped_column(String(32), index=True)
    target: Mapped[str | None] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]]
    attempt: Mapped[int] = mapped_column(default=0)
    epoch: Mapped[int] = mapped_column(default=0)
    agent: Mapped[str | None] = mapped_column(String(100))
    agent_target: Mapped[str | None] = mapped_column(String(100))
    public_key_pem: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]


class LeaseRow(Base):
    """Every lease ever given: a late agent is known, and told that its epoch is over."""

    __tablename__ = "job_leases"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    epoch: Mapped[int]
    agent: Mapped[str] = mapped_column(String(100))
    machine: Mapped[dict[str, Any]]
    claimed_at: Mapped[datetime]


class JobFileRow(Base):
    """An input to place before the job starts, or an output that it left (`role`)."""

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(8), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    digest: Mapped[str] = mapped_column(String(71))
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class JobEventRow(Base):
    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    event: Mapped[dict[str, Any]]


class JobLogRow(Base):
    """A piece of the log. `start` counts bytes over all attempts, `epoch_start` within one."""

    __tablename__ = "job_log"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    epoch: Mapped[int]
    epoch_start: Mapped[int] = mapped_column(BigInteger)
    num_bytes: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
