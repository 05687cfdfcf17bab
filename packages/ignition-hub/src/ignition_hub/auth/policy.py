"""Who may do what: the only place that knows."""

from __future__ import annotations

from ignition_hub.auth.actor import Actor
from ignition_hub.errors import ForbiddenError

_VIEWER = ("viewer", "developer", "admin", "owner")
_DEVELOPER = ("developer", "admin", "owner")
_ADMIN = ("admin", "owner")

ROLES: dict[str, tuple[str, ...]] = {
    "read": _VIEWER,
    "inbox.read": _VIEWER,
    "endpoint.predict": _VIEWER,
    "blob.write": _DEVELOPER,
    "dataset.commit": _DEVELOPER,
    "run.start": _DEVELOPER,
    "run.cancel": _DEVELOPER,
    "job.cancel": _DEVELOPER,
    "endpoint.key": _DEVELOPER,
    "endpoint.delete": _DEVELOPER,
    "account.manage": _ADMIN,
}
"""Which members may take an action."""

KINDS: dict[str, tuple[str, ...]] = {
    "job.lease": ("agent",),
    "job.report": ("job",),
    "gateway.sync": ("gateway",),
}
"""Actions of machines."""


def require(actor: Actor, action: str) -> None:
    """
    Raises:
        ForbiddenError: `actor` may not take `action`.
    """
    if action in KINDS:
        allowed = actor.kind in KINDS[action]
    else:
        allowed = actor.kind == "system" or (actor.kind == "user" and actor.role in ROLES[action])
    if not allowed:
        who = f"the role '{actor.role}'" if actor.kind == "user" else f"the token of the {actor.kind}"
        raise ForbiddenError(
            f"This needs more rights than {who} has.", value=action, hint="Ask an administrator."
        )
