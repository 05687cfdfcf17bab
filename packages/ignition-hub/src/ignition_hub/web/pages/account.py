"""Setting the first password, signing in and out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from ignition_hub.accounts import service as accounts
from ignition_hub.auth.http import (
    COOKIE,
    client_address,
    require_same_site,
    session_actor,
    set_session_cookie,
)
from ignition_hub.auth.passwords import MIN_LENGTH
from ignition_hub.errors import HubError
from ignition_hub.hub import HubDep
from ignition_hub.web.pages.problems import FormProblem
from ignition_hub.web.render import local_path, render

router = APIRouter(include_in_schema=False)
SAME_SITE = [Depends(require_same_site)]

_SETUP: dict[str, Any] = {
    "heading": "Set up Ignition",
    "lead": "Choose the administrator’s e-mail and password. This link works once.",
    "action": "/setup",
    "button": "Create account",
    "min_length": MIN_LENGTH,
}
_LOGIN: dict[str, Any] = {
    "heading": "Welcome back",
    "lead": "Sign in to this Hub.",
    "action": "/login",
    "button": "Sign in",
}


@router.get("/setup")
def setup(hub: HubDep, request: Request, token: str = "") -> Response:
    with hub.db.read() as session:
        if not accounts.is_setup_token(session, token):
            return RedirectResponse("/login?done=link-used", status_code=303)
    return render(request, "gate.html", **_SETUP, token=token, email="", error=None)


@router.post("/setup", dependencies=SAME_SITE)
def claim(
    hub: HubDep,
    request: Request,
    token: Annotated[str, Form()],
    email: Annotated[str, Form()],
    password: Annotated[str, Form()],
) -> Response:
    lifetime_s = hub.settings.session_lifetime_s
    try:
        with hub.db.write() as session:
            cookie = accounts.claim_setup(session, token, email, password, session_lifetime_s=lifetime_s)
    except HubError as error:
        return _again(request, error, _SETUP, token=token, email=email)
    return _signed_in(request, cookie, "/")


@router.get("/login")
def login(request: Request, next: str = "/") -> Response:
    if session_actor(request) is not None:
        return RedirectResponse(local_path(next), status_code=303)
    return render(request, "gate.html", **_LOGIN, next=local_path(next), email="", error=None)


@router.post("/login", dependencies=SAME_SITE)
def sign_in(
    hub: HubDep,
    request: Request,
    email: Annotated[str, Form()],
    password: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
) -> Response:
    lifetime_s = hub.settings.session_lifetime_s
    try:
        hub.login.check(email, password, address=client_address(request))
        with hub.db.write() as session:
            cookie = accounts.open_session(session, email, session_lifetime_s=lifetime_s)
    except HubError as error:
        return _again(request, error, _LOGIN, next=local_path(next), email=email)
    return _signed_in(request, cookie, local_path(next))


@router.post("/logout", dependencies=SAME_SITE)
def sign_out(hub: HubDep, request: Request) -> Response:
    if token := request.cookies.get(COOKIE):
        with hub.db.write() as session:
            accounts.close_session(session, token)
    response = RedirectResponse("/login?done=signed-out", status_code=303)
    response.delete_cookie(COOKIE)
    return response


def _signed_in(request: Request, token: str, target: str) -> Response:
    response = RedirectResponse(target, status_code=303)
    set_session_cookie(response, request, token)
    return response


def _again(request: Request, error: HubError, form: dict[str, Any], **context: Any) -> Response:
    problem = FormProblem.of(error, "That did not work")
    return render(request, "gate.html", **form, **context, error=problem, status_code=error.status)
