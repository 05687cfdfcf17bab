"""``/v1/inbox``."""

from __future__ import annotations

from fastapi import APIRouter

from ignition_client import wire
from ignition_hub.auth.http import Caller
from ignition_hub.hub import HubDep
from ignition_hub.inbox import service

router = APIRouter(prefix="/v1/inbox", tags=["inbox"])


@router.get("")
def list_messages(hub: HubDep, actor: Caller) -> list[wire.InboxMessage]:
    with hub.db.read() as session:
        return service.list_messages(session, actor)


@router.post("/{message_id}/read")
def mark_read(hub: HubDep, actor: Caller, message_id: str) -> wire.InboxMessage:
    with hub.db.write() as session:
        return service.mark_read(session, actor, message_id)
