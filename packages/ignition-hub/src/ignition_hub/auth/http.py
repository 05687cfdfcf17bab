"""Credentials on requests: a bearer token, or the cookie of a browser session."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.responses import Response

from ignition_hub.accounts import service as accounts
from ignition_hub.auth.actor import Actor
from ignition_hub.auth.tokens import sha256_hex
from ignition_hub.errors import CrossSiteError, NotAuthenticatedError
from ignition_hub.hub import Hub, get_hub

COOKIE = "ignition_session"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def current_actor(request: Request) -> Actor:
    """Whoever sends this request.

    Raises:
        NotAuthenticatedError: No credentials, or not valid ones.
        CrossSiteError: The cookie came with another site's request.
    """
    hub = get_hub(request)
    header = request.headers.get("authorization", "")
    scheme, _, token = header.partition(" ")
    if header:
        actor = _by_token(hub, token.strip()) if scheme.lower() == "bearer" else None
    else:
        actor = session_actor(request)
    if actor is None:
        raise NotAuthenticatedError("The key is not valid." if header else "You are not signed in.")
    return actor


def session_actor(request: Request) -> Actor | None:
    """The signed-in user of a browser, for pages; None for strangers.

    Raises:
        CrossSiteError: An unsafe request that another site sent.
    """
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    require_same_site(request)
    hub = get_hub(request)
    with hub.db.read() as session:
        return accounts.authenticate(session, token, browser=True)


def require_same_site(request: Request) -> None:
    """Browsers say where a request comes from: no token is needed to know our own pages.

    Source: W3C Fetch Metadata; the rule is that of Go's `http.CrossOriginProtection`: no header at all
    means that it is not a browser.

    Raises:
        CrossSiteError: Another site sent it.
    """
    if request.method in _SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        origin = request.headers.get("origin")
        try:
            allowed = origin is None or urlsplit(origin).netloc == request.headers.get("host")
        except ValueError:
            allowed = False
    if not allowed:
        raise CrossSiteError("This was sent by another site.")


def _by_token(hub: Hub, token: str) -> Actor | None:
    machine = hub.machines.get(sha256_hex(token))
    if machine is not None:
        return machine
    with hub.db.read() as session:
        if token.startswith("ignj_"):
            return hub.jobs.authenticate(session, token)
        return accounts.authenticate(session, token, browser=False)


def set_session_cookie(response: Response, request: Request, token: str) -> None:
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(get_hub(request).settings.session_lifetime_s),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
        path="/",
    )


def client_address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


Caller = Annotated[Actor, Depends(current_actor)]
