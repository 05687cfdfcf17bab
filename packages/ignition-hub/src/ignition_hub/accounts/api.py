"""``/v1/login`` and ``/v1/me``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ignition_client import wire
from ignition_hub.accounts import service
from ignition_hub.auth.http import Caller, client_address
from ignition_hub.hub import HubDep

router = APIRouter(prefix="/v1", tags=["accounts"])


@router.post("/login")
def login(hub: HubDep, request: Request, body: wire.Login) -> wire.NewKey:
    """An API key for a user's e-mail address and password."""
    hub.login.check(body.email, body.password, address=client_address(request))
    with hub.db.write() as session:
        return service.new_key_by_email(session, body.email, body.key_name)


@router.get("/me")
def me(actor: Caller) -> wire.Me:
    return service.me(actor)
