"""Who is calling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["user", "agent", "gateway", "job", "system"]
Role = Literal["owner", "admin", "developer", "viewer"]


@dataclass(frozen=True, kw_only=True)
class Actor:
    """An authenticated caller, in one organisation.

    Args:
        kind: What sort of caller.
        name: For people: the e-mail address, or what it is. Goes into the audit log.
        organisation_id: Whose things it may touch; empty for the gateway and agents of the whole farm.
        organisation: That organisation's name.
        role: For users.
        user_id: For users.
        job_id, epoch: For jobs: the lease that its token stands for.
    """

    kind: Kind
    name: str
    organisation_id: str = ""
    organisation: str = ""
    role: Role | None = None
    user_id: str | None = None
    job_id: str | None = None
    epoch: int | None = None


def system(organisation_id: str) -> Actor:
    """The Hub itself, at work for an organisation."""
    return Actor(kind="system", name="hub", organisation_id=organisation_id)
