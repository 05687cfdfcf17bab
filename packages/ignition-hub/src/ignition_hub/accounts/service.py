"""Organisations, users, and their tokens: API keys, browser sessions, the first setup."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.accounts.models import MemberRow, OrganisationRow, TokenRow, UserRow
from ignition_hub.audit import service as audit
from ignition_hub.auth.actor import Actor, Role
from ignition_hub.auth.passwords import hash_password, verify_password
from ignition_hub.auth.tokens import Prefix, new_token, sha256_hex, shown_prefix
from ignition_hub.db.engine import now
from ignition_hub.errors import BadRequestError, ConflictError, NotAuthenticatedError
from ignition_hub.ids import new_id

FIRST_ORGANISATION = "default"
FIRST_USER = "admin@localhost"
_PREFIXES: dict[str, Prefix] = {"key": "ign", "session": "igns", "setup": "ignu"}


def bootstrap(session: Session) -> Actor:
    """The first organisation and its owner; makes them at the first start.

    Returns:
        The owner.
    """
    organisation = session.scalar(select(OrganisationRow).where(OrganisationRow.name == FIRST_ORGANISATION))
    if organisation is None:
        moment = now(session)
        organisation = OrganisationRow(id=new_id(), name=FIRST_ORGANISATION, created_at=moment)
        user = UserRow(id=new_id(), email=FIRST_USER, password_hash=None, created_at=moment)
        session.add_all([organisation, user])
        session.flush()
        session.add(MemberRow(organisation_id=organisation.id, user_id=user.id, role="owner"))
        session.flush()
    member = session.scalars(
        select(MemberRow).where(MemberRow.organisation_id == organisation.id, MemberRow.role == "owner")
    ).first()
    assert member is not None, "an organisation has an owner"
    return _actor(session, member.user_id, organisation.id)


def new_setup_token(session: Session, owner: Actor) -> str | None:
    """The one-time token of the setup link; None once the owner has a password."""
    user = session.get_one(UserRow, owner.user_id)
    session.execute(delete(TokenRow).where(TokenRow.kind == "setup"))
    return _new_token(session, owner, "setup", "setup") if user.password_hash is None else None


def is_setup_token(session: Session, token: str) -> bool:
    return _find(session, token, "setup") is not None


def claim_setup(session: Session, token: str, email: str, password: str, *, session_lifetime_s: float) -> str:
    """Gives the first owner an e-mail address and a password, and signs them in.

    Returns:
        The token of the new browser session.

    Raises:
        NotAuthenticatedError: The link was used, or is not this Hub's newest.
        BadRequestError: The address or the password will not do.
    """
    row = _find(session, token, "setup")
    if row is None:
        raise NotAuthenticatedError(
            "This setup link is not valid any more.", hint="The Hub prints a new one when it starts."
        )
    email = _clean_email(email)
    user = session.get_one(UserRow, row.user_id)
    taken = session.scalar(select(UserRow).where(UserRow.email == email, UserRow.id != user.id))
    if taken is not None:
        raise ConflictError("Somebody else has this e-mail address.", value=email)
    user.email = email
    user.password_hash = hash_password(password)
    session.execute(delete(TokenRow).where(TokenRow.kind == "setup"))
    actor = _actor(session, row.user_id, row.organisation_id)
    audit.record(session, actor, "account.setup", email)
    return _new_token(session, actor, "session", "browser", lifetime_s=session_lifetime_s)


def password_hash_of(session: Session, email: str) -> str | None:
    return session.scalar(select(UserRow.password_hash).where(UserRow.email == email.strip().lower()))


def check_password(password: str, password_hash: str | None) -> None:
    """Slow on purpose: not inside a transaction.

    Raises:
        NotAuthenticatedError: It is the wrong one, or there is no such user.
    """
    if not verify_password(password, password_hash):
        raise NotAuthenticatedError("The e-mail address or the password is wrong.", hint="Try again.")


def open_session(session: Session, email: str, *, session_lifetime_s: float) -> str:
    """A browser session for a user whose password was checked; returns its token."""
    actor = _actor_by_email(session, email)
    audit.record(session, actor, "session.open", actor.name)
    return _new_token(session, actor, "session", "browser", lifetime_s=session_lifetime_s)


def close_session(session: Session, token: str) -> None:
    session.execute(delete(TokenRow).where(TokenRow.sha256 == sha256_hex(token), TokenRow.kind == "session"))


def new_key(session: Session, actor: Actor, name: str) -> wire.NewKey:
    """An API key for `actor`, shown this once."""
    token = _new_token(session, actor, "key", name[:100])
    audit.record(session, actor, "key.create", name)
    return wire.NewKey(name=name[:100], key=token, prefix=shown_prefix(token))


def new_key_by_email(session: Session, email: str, name: str) -> wire.NewKey:
    """An API key for a user whose password was checked."""
    return new_key(session, _actor_by_email(session, email), name)


def authenticate(session: Session, token: str, *, browser: bool) -> Actor | None:
    """The user behind an API key or, for `browser`, a session cookie."""
    row = _find(session, token, "session" if browser else "key")
    return None if row is None else _actor(session, row.user_id, row.organisation_id)


def me(actor: Actor) -> wire.Me:
    if actor.kind != "user" or actor.role is None:
        raise NotAuthenticatedError("This is not a user's key.")
    return wire.Me(email=actor.name, organisation=actor.organisation, role=actor.role)


def organisation_name(session: Session, organisation_id: str) -> str:
    return session.get_one(OrganisationRow, organisation_id).name


def email_of(session: Session, user_id: str | None) -> str | None:
    user = session.get(UserRow, user_id) if user_id else None
    return user.email if user else None


def _actor_by_email(session: Session, email: str) -> Actor:
    row = session.execute(
        select(UserRow.id, MemberRow.organisation_id)
        .join(MemberRow, MemberRow.user_id == UserRow.id)
        .where(UserRow.email == email.strip().lower())
    ).first()
    if row is None:
        raise NotAuthenticatedError("This user is in no organisation.", value=email)
    return _actor(session, row[0], row[1])


def _actor(session: Session, user_id: str, organisation_id: str) -> Actor:
    user = session.get_one(UserRow, user_id)
    member = session.get(MemberRow, (organisation_id, user_id))
    return Actor(
        kind="user",
        name=user.email,
        organisation_id=organisation_id,
        organisation=organisation_name(session, organisation_id),
        role=cast(Role, member.role) if member else None,
        user_id=user.id,
    )


def _find(session: Session, token: str, kind: str) -> TokenRow | None:
    row = session.get(TokenRow, sha256_hex(token))
    if row is None or row.kind != kind:
        return None
    return None if row.expires_at is not None and row.expires_at <= now(session) else row


def _new_token(
    session: Session, actor: Actor, kind: str, name: str, *, lifetime_s: float | None = None
) -> str:
    assert actor.user_id is not None, "only users have tokens of this kind"
    token = new_token(_PREFIXES[kind])
    moment = now(session)
    expires_at: datetime | None = None if lifetime_s is None else moment + timedelta(seconds=lifetime_s)
    session.add(
        TokenRow(
            sha256=sha256_hex(token),
            kind=kind,
            prefix=shown_prefix(token),
            name=name,
            user_id=actor.user_id,
            organisation_id=actor.organisation_id,
            created_at=moment,
            expires_at=expires_at,
        )
    )
    return token


def _clean_email(email: str) -> str:
    email = email.strip().lower()
    name, _, host = email.rpartition("@")
    if not name or not host or len(email) > 320 or not email.isprintable() or " " in email:
        raise BadRequestError("This is not an e-mail address.", value=email[:320])
    return email
