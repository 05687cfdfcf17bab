"""Ignition's client: the SDK, the ``ignition`` command and the builder agent."""

from __future__ import annotations

from ignition_client.api import Ignition
from ignition_client.errors import (
    AgentError,
    ClientError,
    ConfigError,
    ConflictError,
    DigestMismatchError,
    HubError,
    HubFailureError,
    HubUnreachableError,
    InputError,
    InvalidRequestError,
    NotFoundError,
    NotLoggedInError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
    UnsafePathError,
    WaitTimeoutError,
    WorkFailedError,
)
from ignition_client.prediction import Heatmap, Prediction

__all__ = [
    "AgentError",
    "ClientError",
    "ConfigError",
    "ConflictError",
    "DigestMismatchError",
    "Heatmap",
    "HubError",
    "HubFailureError",
    "HubUnreachableError",
    "Ignition",
    "InputError",
    "InvalidRequestError",
    "NotFoundError",
    "NotLoggedInError",
    "PermissionDeniedError",
    "Prediction",
    "ProtocolError",
    "RateLimitedError",
    "UnsafePathError",
    "WaitTimeoutError",
    "WorkFailedError",
]
