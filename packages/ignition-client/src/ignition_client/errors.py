"""Every error of the client.

ClientError                     root
├── ConfigError                 no or unreadable profile, bad URL
├── InputError                  a local file, folder or value that cannot be used
│   ├── UnsafePathError         a path that would leave its folder
│   └── DigestMismatchError     bytes that are not what their digest says
├── HubUnreachableError         no answer, after retries
├── AgentError                  the agent on this machine
│   ├── AgentSetupError         it cannot start
│   ├── LeaseLostError          the job belongs to somebody else now
│   └── JobInterruptedError     the job was cancelled, or the agent is stopping
├── WorkFailedError             a run or job ended without a result
├── WaitTimeoutError            it is not over yet
└── HubError                    the Hub's answer is an error (problem JSON)
    ├── NotLoggedInError        401
    ├── PermissionDeniedError   403
    ├── NotFoundError           404
    ├── ConflictError           409: also a stale epoch
    ├── InvalidRequestError     400, 413, 415, 422
    ├── RateLimitedError        429
    ├── HubFailureError         5xx
    └── ProtocolError           an answer that is not protocol v1
"""

from __future__ import annotations

from typing import Any

from ignition_client.wire import JobError, Problem


class ClientError(Exception):
    """Something went wrong in the Ignition client."""

    code = "client.error"
    hint: str | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        value: object = None,
        hint: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """
        Args:
            message: One sentence for people; default: the class's docstring.
            value: The offending value.
            hint: What to do about it.
            code: Stable identifier; default: the class's.
            request_id: The Hub's id of the request that failed.
        """
        self.message = message or (self.__doc__ or "").strip().splitlines()[0]
        super().__init__(self.message)
        self.value = value
        self.hint = hint or type(self).hint
        self.code = code or type(self).code
        self.request_id = request_id


class ConfigError(ClientError):
    """The client's configuration cannot be used."""

    code = "client.config"


class InputError(ClientError):
    """A local file, folder or value cannot be used."""

    code = "client.input"


class UnsafePathError(InputError):
    """The path would leave its folder."""

    code = "client.unsafe_path"
    hint = "Use relative POSIX paths without '..', drive letters, backslashes or control characters."


class DigestMismatchError(InputError):
    """The bytes do not have the digest that was promised."""

    code = "client.digest_mismatch"
    hint = "The transfer or the storage damaged the file; try again."


class HubUnreachableError(ClientError):
    """The Hub does not answer."""

    code = "client.unreachable"
    hint = "Start it with `ignition up`, or check the address with `ignition status`."


class AgentError(ClientError):
    """The agent on this machine cannot go on."""

    code = "agent.error"


class AgentSetupError(AgentError):
    """The agent cannot start."""

    code = "agent.setup"


class LeaseLostError(AgentError):
    """The Hub no longer knows this lease: another attempt may be running."""

    code = "agent.lease_lost"


class JobInterruptedError(AgentError):
    """The job was cancelled, or the agent is stopping."""

    code = "agent.interrupted"


class WorkFailedError(ClientError):
    """The work ended without a result."""

    code = "client.work_failed"

    @classmethod
    def from_job_error(cls, error: JobError | None, what: str, status: str) -> WorkFailedError:
        """The typed form of a run's or job's final error."""
        if error is None:
            return cls(f"{what} was {status}.", code=f"run.{status}")
        return cls(error.message, code=error.code, hint=error.hint)


class WaitTimeoutError(ClientError):
    """It is not over yet."""

    code = "client.wait_timeout"


class HubError(ClientError):
    """The Hub answered with an error."""

    code = "hub.error"
    status = 0


class NotLoggedInError(HubError):
    """The Hub does not accept the key, or none was given."""

    code = "hub.unauthenticated"
    hint = "Log in with `ignition login`."


class PermissionDeniedError(HubError):
    """The key may not do this."""

    code = "hub.forbidden"


class NotFoundError(HubError):
    """There is no such thing."""

    code = "hub.not_found"


class ConflictError(HubError):
    """The state of things has changed."""

    code = "hub.conflict"


class InvalidRequestError(HubError):
    """The Hub rejects the request's content."""

    code = "hub.invalid"


class RateLimitedError(HubError):
    """Too many requests."""

    code = "hub.rate_limited"


class HubFailureError(HubError):
    """The Hub failed to answer the request."""

    code = "hub.failure"
    hint = "Its log says why: $IGNITION_HOME/logs/hub.log."


class ProtocolError(HubError):
    """The answer is not what protocol v1 says."""

    code = "client.protocol"
    hint = "Client and Hub may be of different versions; compare `ignition --version` and `ignition status`."


_CLASS_BY_STATUS: dict[int, type[HubError]] = {
    400: InvalidRequestError,
    401: NotLoggedInError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
}


def error_from_answer(status: int, body: Any, *, request_id: str | None = None) -> HubError:
    """The typed error for an error answer.

    Args:
        status: HTTP status, 400 or more.
        body: The parsed JSON body, ideally `wire.Problem`; anything else is tolerated (a proxy's page).
        request_id: From the answer's headers, where the body has none.

    Returns:
        An error whose class follows from the status and whose `code` is the Hub's own.
    """
    cls = _CLASS_BY_STATUS.get(status, HubFailureError if status >= 500 else HubError)
    try:
        problem = Problem.model_validate(body)
    except ValueError:
        error = cls(f"HTTP {status} without an explanation.", request_id=request_id)
    else:
        error = cls(
            problem.detail,
            value=problem.value,
            hint=problem.hint,
            code=problem.code,
            request_id=problem.request_id or request_id,
        )
    error.status = status
    return error
