"""Tables of endpoints, their keys, and what the gateway was last told."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from ignition_hub.db import Base


class EndpointRow(Base):
    """`previous_*` is what to go back to when the gateway cannot load the new engine."""

    __tablename__ = "endpoints"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    name: Mapped[str] = mapped_column(String(63), unique=True)
    engine_id: Mapped[str] = mapped_column(ForeignKey("engines.id"))
    run_id: Mapped[str | None] = mapped_column(String(32))
    previous_engine_id: Mapped[str | None] = mapped_column(ForeignKey("engines.id"))
    previous_run_id: Mapped[str | None] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    deployed_at: Mapped[datetime]


class EndpointKeyRow(Base):
    __tablename__ = "endpoint_keys"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"), index=True)
    prefix: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]


class GatewayDeliveryRow(Base):
    """The configuration the gateway was given last: what its next report is about."""

    __tablename__ = "gateway_deliveries"

    id: Mapped[int] = mapped_column(primary_key=True)
    etag: Mapped[str] = mapped_column(String(64))
    engines: Mapped[dict[str, Any]]
