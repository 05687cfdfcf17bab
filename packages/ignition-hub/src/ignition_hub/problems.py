"""Every error answer is made here, as RFC 9457 problem JSON."""

from __future__ import annotations

import re
import uuid
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ignition_client import wire
from ignition_hub.errors import HubError, NotAuthenticatedError, RateLimitedError

logger = structlog.get_logger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CODES = {404: "not_found", 405: "request.method", 413: "request.too_large", 415: "request.media_type"}


def problem_of(error: Exception, request_id: str) -> wire.Problem:
    """What is told about an error: of an unexpected one, nothing but its request id."""
    if isinstance(error, HubError) and error.status < 500:
        return _problem(error, request_id)
    if isinstance(error, RequestValidationError):
        return _validation(error, request_id)
    if isinstance(error, HTTPException):
        code = _CODES.get(error.status_code, "request.invalid")
        detail = str(error.detail)
        return wire.Problem(
            type=_type(code),
            title=detail,
            status=error.status_code,
            detail=f"{detail}.",
            code=code,
            request_id=request_id,
        )
    if isinstance(error, HubError) and error.status != 500:
        return _problem(error, request_id)
    return wire.Problem(
        type=_type(HubError.code),
        title=HubError.title,
        status=500,
        detail="The Hub failed at this request.",
        code=HubError.code,
        hint="The Hub's log has the details under this request id.",
        request_id=request_id,
    )


def _problem(error: HubError, request_id: str) -> wire.Problem:
    return wire.Problem(
        type=_type(error.code),
        title=error.title,
        status=error.status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
        value=_shown(error.value),
        request_id=request_id,
    )


def _validation(error: RequestValidationError, request_id: str) -> wire.Problem:
    first: dict[str, Any] = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()))
    return wire.Problem(
        type=_type("request.invalid"),
        title="Invalid request",
        status=422,
        detail=f"{where}: {first['msg']}.",
        code="request.invalid",
        hint="The API's description is at /v1/openapi.json.",
        value=_shown(first.get("input")),
        request_id=request_id,
    )


def _shown(value: Any) -> Any:
    """The offending value, as much of it as helps."""
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**53 else str(value)[:100]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [item[:200] for item in value[:10]]
    return str(value).encode("utf-8", "replace").decode()[:200]


def _type(code: str) -> str:
    return f"urn:ignition:problem:{code}"


def answer(request: Request, error: Exception) -> Response:
    """The response for `error`."""
    request_id = getattr(request.state, "request_id", uuid.uuid4().hex)
    problem = problem_of(error, request_id)
    if problem.status >= 500:
        logger.error("request failed", path=request.url.path, request_id=request_id, exc_info=error)
    headers = dict(getattr(error, "headers", None) or {})
    if isinstance(error, NotAuthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = "60"
    return JSONResponse(
        problem.model_dump(mode="json"),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=headers,
    )


async def _handle(request: Request, error: Exception) -> Response:
    return answer(request, error)


def install(app: FastAPI) -> None:
    """Pages may wrap the handlers afterwards, to answer browsers with HTML."""
    for kind in (HubError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _handle)
    app.add_middleware(RequestContext)


class RequestContext:
    """Gives every request an id, also in its log lines and its answer, and catches what nothing else does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.state.request_id = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                if started:
                    raise
                kind = HubError if isinstance(error, HubError) else Exception
                response = await request.app.exception_handlers[kind](request, error)
                await response(scope, receive, send_with_id)
