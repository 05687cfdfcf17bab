"""Sending e-mail: what waits in the outbox, each message once."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime

from sqlalchemy import select

from ignition_hub.db import Database
from ignition_hub.db.engine import now
from ignition_hub.inbox.models import MailRow
from ignition_hub.settings import Settings

_TIMEOUT_S = 20


def send_mail_of_run(db: Database, settings: Settings, run_id: str) -> bool:
    """Sends the run's e-mail unless it was sent. Blocking.

    A crash between sending and noting it sends again, under the same Message-ID, by which mail systems
    recognise a duplicate.

    Returns:
        Whether it was sent now.

    Raises:
        OSError, smtplib.SMTPException: The mail server did not take it.
    """
    with db.read() as session:
        row = session.scalar(select(MailRow).where(MailRow.run_id == run_id))
    if row is None or row.sent_at is not None or not settings.smtp_host:
        return False
    message = EmailMessage()
    message["Message-ID"] = row.message_id
    message["From"] = settings.smtp_from
    message["To"] = row.receivers
    message["Subject"] = row.subject
    message["Date"] = format_datetime(row.created_at)
    message.set_content(row.body)
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT_S) as server:
        server.ehlo()
        if settings.smtp_starttls and server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user:
            server.login(settings.smtp_user, settings.smtp_secret)
        server.send_message(message)
    with db.write() as session:
        session.get_one(MailRow, row.message_id).sent_at = now(session)
    return True
