"""Errors as pages, for browsers that navigate."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from ignition_client import wire
from ignition_hub.errors import HubError
from ignition_hub.web.render import login_url, render

WORDS = {
    403: ("Not yours to open", "Your role does not allow this. An administrator of the organisation can."),
    422: ("That did not work", "The address or the form holds something that the Hub cannot use."),
    500: ("Something broke inside the Hub", "It was logged with the request number below. Try again."),
}
"""What to say instead of the problem's own words, which are for programs."""


Handler = Callable[[Request, Any], Awaitable[Response]]


def wants_page(request: Request) -> bool:
    path = request.url.path
    return "text/html" in request.headers.get("accept", "") and not path.startswith(("/v1/", "/static/"))


def wrap_error_handlers(app: FastAPI) -> None:
    """Has a browser get the problem JSON of `ignition_hub.problems` as a page; call it after `install`."""
    for kind in (HubError, RequestValidationError, HTTPException, Exception):
        app.exception_handlers[kind] = _as_page(cast(Handler, app.exception_handlers[kind]))


def _as_page(handler: Handler) -> Handler:
    async def handle(request: Request, error: Any) -> Response:
        response = await handler(request, error)
        if not wants_page(request) or response.media_type != "application/problem+json":
            return response
        return error_page(request, wire.Problem.model_validate(json.loads(bytes(response.body))))

    return handle


def error_page(request: Request, problem: wire.Problem) -> Response:
    """`problem` as a page; whoever is not signed in is sent to the sign-in page and back."""
    if problem.status == 401:
        return RedirectResponse(login_url(request), status_code=303)
    if problem.status == 404:
        detail = problem.detail if problem.title != "Not Found" else "The page was moved, or never existed."
        shown = problem.model_copy(update={"title": "Nothing here", "detail": detail, "hint": None})
    elif words := WORDS.get(problem.status):
        shown = problem.model_copy(update={"title": words[0], "detail": words[1], "hint": None})
    else:
        shown = problem
    return render(request, "error.html", status_code=problem.status, problem=shown)
