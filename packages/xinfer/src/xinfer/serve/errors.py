"""The gateway's own errors, a branch of `xinfer.errors`, and the table of everything it answers.

XInferError
├── ProblemError        an answer other than 2xx; `code` is a key of `PROBLEMS`
├── ServeError          serve.invalid       the gateway cannot start as asked
├── HubError            hub.answer          the Hub sent what this gateway cannot use
│   └── HubUnavailableError  hub.unavailable  the Hub cannot be reached; trying again may help
└── InputError
    └── ProtocolError   input.invalid       a body that the Open Inference Protocol does not allow
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xinfer.errors import InputError, XInferError

PROBLEMS: dict[str, tuple[int, str, str | None]] = {
    "key.missing": (
        401,
        "No key",
        "Send the endpoint's key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'.",
    ),
    "key.invalid": (401, "Wrong key", "Make a new key for the endpoint; a replaced key ends at once."),
    "endpoint.unknown": (404, "Unknown endpoint", "Check the name; a deleted endpoint is gone at once."),
    "path.unknown": (404, "Unknown path", "POST an input to /v1/endpoints/<name>/predict."),
    "version.unknown": (404, "Unknown version", "Leave out the version to get the one that is deployed."),
    "method.not_allowed": (405, "Method not allowed", "The Allow header names what is."),
    "body.timeout": (
        408,
        "The body did not arrive in time",
        "Check the connection and send the request again.",
    ),
    "body.too_large": (413, "Body too large", "Send less at once; scale images down."),
    "body.empty": (
        400,
        "Empty body",
        "Send the input, such as an image file's bytes, as the request's body.",
    ),
    "body.invalid": (422, "Body is not what the endpoint takes", None),
    "body.encoding": (
        400,
        "Body cannot be decoded",
        "Send the bytes as they are, or as valid gzip or deflate.",
    ),
    "query.invalid": (400, "Invalid query", "The only heat map is ?heatmap=png, of anomaly detectors."),
    "image.unreadable": (422, "Not an image", "Send the bytes of a JPEG, PNG, WebP, BMP, TIFF or GIF file."),
    "image.truncated": (422, "Truncated image", "The file ends too early; send all of it."),
    "image.too_large": (422, "Image too large", "Scale the image down before sending it."),
    "image.unsupported": (422, "Unsupported image", "Convert the image to JPEG or PNG."),
    "input.invalid": (400, "Invalid inference request", None),
    "task.unsupported": (400, "A model without a task", "Use the Open Inference Protocol for this endpoint."),
    "repository.read_only": (
        400,
        "Models are deployed by the Hub",
        "Deploy and delete endpoints on the Hub.",
    ),
    "gateway.overloaded": (503, "Too many requests at once", "Try again in a moment."),
    "gateway.forbidden": (403, "Not from here", "Ask from the gateway's machine or with an endpoint's key."),
    "gateway.internal": (500, "Internal error", "The gateway's log has the reason under this request's id."),
}
"""Code -> HTTP status, title and what to do about it."""


class ProblemError(XInferError):
    """An answer other than 2xx (RFC 9457 on the predict route, `{"error"}` under `/v2`).

    Args:
        code: A key of `PROBLEMS`; gives status, title and hint.
        detail: One sentence about this case, for the caller.
        hint: Replaces the code's hint.
        headers: Further response headers.
    """

    def __init__(
        self, code: str, detail: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.title, default_hint = PROBLEMS[code]
        super().__init__(detail, code=code, hint=hint or default_hint)
        self.headers = dict(headers or {})

    def to_json(self, request_id: str) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "hint": self.hint,
            "request_id": request_id,
        }


class ServeError(XInferError):
    """The gateway cannot start as asked."""

    default_code = "serve.invalid"


class HubError(XInferError):
    """The Hub sent what this gateway cannot use."""

    default_code = "hub.answer"


class HubUnavailableError(HubError):
    """The Hub cannot be reached."""

    default_code = "hub.unavailable"


class ProtocolError(InputError):
    """A body that the Open Inference Protocol does not allow."""
