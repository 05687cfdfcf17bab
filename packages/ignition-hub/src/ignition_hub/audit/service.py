"""Every mutation leaves a row, in the same commit."""

from __future__ import annotations

from sqlalchemy.orm import Session

from ignition_hub.audit.models import AuditRow
from ignition_hub.auth.actor import Actor
from ignition_hub.db.engine import now


def record(session: Session, actor: Actor, action: str, object_: str) -> None:
    session.add(
        AuditRow(
            at=now(session),
            organisation_id=actor.organisation_id or None,
            actor=actor.name[:320],
            action=action,
            object=object_[:400],
        )
    )
