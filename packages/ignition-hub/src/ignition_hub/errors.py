"""Everything the Hub refuses or fails at.

HubError                       500  hub.internal
├── SettingsError                   hub.settings
├── AlreadyRunningError             hub.already_running
├── BadRequestError            400  request.invalid
│   ├── UnsafePathError        400  dataset.path
│   └── DigestMismatchError    400  blob.digest_mismatch
├── NotAuthenticatedError      401  auth.required
├── ForbiddenError             403  auth.forbidden
│   └── CrossSiteError         403  auth.cross_site
├── NotFoundError              404  not_found
├── BlobLostError              410  blob.lost
├── ConflictError              409  conflict
│   └── StaleLeaseError        409  job.stale_epoch
├── TooLargeError              413  request.too_large
├── RateLimitedError           429  request.rate_limited
└── GatewayUnavailableError    503  gateway.unavailable
"""

from __future__ import annotations

from typing import Any, ClassVar


class HubError(Exception):
    """Something went wrong inside the Hub.

    Args:
        message: What happened, a sentence for people.
        value: The offending value, if there is one.
        hint: What to do about it.
    """

    code: ClassVar[str] = "hub.internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, value: Any = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.value = value
        self.hint = hint if hint is not None else self.default_hint


class SettingsError(HubError):
    """The configuration cannot be used."""

    code = "hub.settings"


class AlreadyRunningError(HubError):
    """Another Hub uses this home folder."""

    code = "hub.already_running"


class BadRequestError(HubError):
    """The request cannot be carried out as it is."""

    code = "request.invalid"
    status = 400
    title = "Invalid request"


class UnsafePathError(BadRequestError):
    """A file's path is absolute, climbs out of its folder, or is not portable."""

    code = "dataset.path"
    default_hint = "Use relative paths with forward slashes and without '..'."


class DigestMismatchError(BadRequestError):
    """What arrived is not what was announced."""

    code = "blob.digest_mismatch"
    default_hint = "Send it again; if it happens twice the file changed while it was read."


class NotAuthenticatedError(HubError):
    """There is no key or session, or it is not valid (any more)."""

    code = "auth.required"
    status = 401
    title = "Not signed in"
    default_hint = "Send `Authorization: Bearer <key>`; `ignition login` makes a key."


class ForbiddenError(HubError):
    """The caller is known but may not do this."""

    code = "auth.forbidden"
    status = 403
    title = "Not allowed"


class CrossSiteError(ForbiddenError):
    """A browser sent this from another site."""

    code = "auth.cross_site"
    default_hint = "Use the Hub's own pages, or an API key."


class NotFoundError(HubError):
    """There is no such thing here."""

    code = "not_found"
    status = 404
    title = "Not found"


class BlobLostError(HubError):
    """The Hub's records have a file that its store does not have (any more)."""

    code = "blob.lost"
    status = 410
    title = "Lost file"
    default_hint = "Restore the folder or bucket of the Hub's blobs from a backup."


class ConflictError(HubError):
    """The state of the thing does not allow this."""

    code = "conflict"
    status = 409
    title = "Conflict"


class StaleLeaseError(ConflictError):
    """The lease was given to somebody else; what this agent says does not count any more."""

    code = "job.stale_epoch"
    default_hint = "Stop working on this job and ask for a new lease."


class TooLargeError(HubError):
    """The body is larger than the Hub takes."""

    code = "request.too_large"
    status = 413
    title = "Too large"


class RateLimitedError(HubError):
    """Too many attempts."""

    code = "request.rate_limited"
    status = 429
    title = "Too many attempts"
    default_hint = "Wait a minute."


class GatewayUnavailableError(HubError):
    """The gateway does not answer."""

    code = "gateway.unavailable"
    status = 503
    title = "The gateway does not answer"
    default_hint = "It may be starting; `ignition status` says."
