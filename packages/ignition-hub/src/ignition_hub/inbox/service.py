"""News for people: one message per run, and one e-mail where there is a mail server."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor
from ignition_hub.db.engine import now
from ignition_hub.errors import NotFoundError
from ignition_hub.ids import new_id
from ignition_hub.inbox.models import InboxRow, MailRow


def add(
    session: Session,
    actor: Actor,
    *,
    run_id: str,
    kind: str,
    title: str,
    body: str,
    link: str,
    receivers: str,
    mail_domain: str,
    mail_link: str,
) -> None:
    """The news of a run's end; a second time changes nothing.

    Args:
        receivers: E-mail addresses, separated by commas; empty for no e-mail.
        mail_domain: Right-hand side of the Message-ID.
        mail_link: The page's full address, for e-mail.
    """
    if session.scalar(select(InboxRow).where(InboxRow.run_id == run_id)) is not None:
        return
    moment = now(session)
    session.add(
        InboxRow(
            id=new_id(),
            organisation_id=actor.organisation_id,
            run_id=run_id,
            kind=kind,
            title=title[:200],
            body=body,
            link=link,
            created_at=moment,
        )
    )
    if receivers:
        session.add(
            MailRow(
                message_id=f"<run-{run_id}@{mail_domain}>",
                run_id=run_id,
                receivers=receivers,
                subject=title[:200],
                body=f"{body}\n\n{mail_link}\n",
                created_at=moment,
            )
        )


def list_messages(session: Session, actor: Actor) -> list[wire.InboxMessage]:
    """Newest first, at most 200."""
    policy.require(actor, "inbox.read")
    rows = session.scalars(
        select(InboxRow)
        .where(InboxRow.organisation_id == actor.organisation_id)
        .order_by(InboxRow.created_at.desc(), InboxRow.id)
        .limit(200)
    )
    return [_message(row) for row in rows]


def mark_read(session: Session, actor: Actor, message_id: str) -> wire.InboxMessage:
    """
    Raises:
        NotFoundError: No such message.
    """
    policy.require(actor, "inbox.read")
    row = session.get(InboxRow, message_id)
    if row is None or row.organisation_id != actor.organisation_id:
        raise NotFoundError("There is no such message.", value=message_id)
    row.read_at = row.read_at or now(session)
    return _message(row)


def _message(row: InboxRow) -> wire.InboxMessage:
    return wire.InboxMessage.model_validate(
        {
            "id": row.id,
            "kind": row.kind,
            "title": row.title,
            "body": row.body,
            "link": row.link,
            "created_at": row.created_at,
            "read": row.read_at is not None,
        }
    )
