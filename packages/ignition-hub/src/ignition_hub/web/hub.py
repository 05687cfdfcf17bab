"""What the pages read and do, for the user who is signed in: the one place where pages meet services."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse

from ignition_client import wire
from ignition_hub.accounts import service as accounts
from ignition_hub.auth.actor import Actor
from ignition_hub.auth.http import session_actor
from ignition_hub.datasets import service as datasets
from ignition_hub.errors import NotAuthenticatedError
from ignition_hub.foundry import service as foundry
from ignition_hub.foundry.templates import TEMPLATES, require_template, settings_of_answers
from ignition_hub.hub import Hub, HubDep
from ignition_hub.inbox import service as inbox
from ignition_hub.registry import service as registry
from ignition_hub.web.render import render


class PagesHub:
    """The services, bound to one request's user."""

    def __init__(self, hub: Hub, actor: Actor) -> None:
        self._hub = hub
        self._actor = actor

    def page(
        self, request: Request, template: str, *, area: str = "", status_code: int = 200, **context: Any
    ) -> HTMLResponse:
        unread = sum(not message.read for message in self.inbox())
        me = accounts.me(self._actor)
        return render(request, template, me=me, unread=unread, area=area, status_code=status_code, **context)

    def templates(self) -> tuple[wire.Template, ...]:
        return TEMPLATES

    def template_names(self) -> dict[str, str]:
        return {template.id: template.name for template in self.templates()}

    def settings_of(self, template_id: str, fields: dict[str, str]) -> dict[str, Any]:
        """What the fields ``<template>.<question>`` of a form say about this template.

        Raises:
            BadRequestError: There is no such template, or an answer is none.
        """
        own = {
            field.removeprefix(f"{template_id}."): answer
            for field, answer in fields.items()
            if field.startswith(f"{template_id}.")
        }
        return settings_of_answers(require_template(template_id), own)

    def datasets(self) -> list[wire.Dataset]:
        with self._hub.db.read() as session:
            return datasets.list_datasets(session, self._actor)

    def dataset(self, name: str, version: int | None) -> wire.DatasetDetail:
        with self._hub.db.read() as session:
            return datasets.show(session, self._actor, name, version)

    def runs(self) -> list[wire.Run]:
        with self._hub.db.read() as session:
            return foundry.list_runs(session, self._actor)

    def run(self, run_id: str) -> wire.Run:
        with self._hub.db.read() as session:
            return foundry.show(session, self._actor, run_id)

    def report(self, run_id: str) -> dict[str, Any]:
        with self._hub.db.read() as session:
            return foundry.report(session, self._actor, self._hub.blobs, run_id)

    def start_run(self, start: wire.RunStart) -> wire.Run:
        with self._hub.db.write() as session:
            return self._hub.foundry.start(session, self._actor, start)

    def cancel_run(self, run_id: str) -> wire.Run:
        with self._hub.db.write() as session:
            return self._hub.foundry.cancel(session, self._actor, run_id)

    def models(self) -> list[wire.Model]:
        with self._hub.db.read() as session:
            return registry.list_models(session, self._actor)

    def engines(self) -> list[wire.Engine]:
        with self._hub.db.read() as session:
            return registry.list_engines(session, self._actor)

    def engine(self, engine_id: str) -> wire.EngineDetail:
        with self._hub.db.read() as session:
            return registry.show_engine(session, self._actor, engine_id)

    def endpoints(self) -> list[wire.Endpoint]:
        with self._hub.db.read() as session:
            return self._hub.endpoints.list_endpoints(session, self._actor)

    def endpoint(self, name: str) -> wire.Endpoint:
        with self._hub.db.read() as session:
            return self._hub.endpoints.show(session, self._actor, name)

    def delete_endpoint(self, name: str) -> None:
        with self._hub.db.write() as session:
            self._hub.endpoints.delete(session, self._actor, name)

    def inbox(self) -> list[wire.InboxMessage]:
        with self._hub.db.read() as session:
            return inbox.list_messages(session, self._actor)

    def read_message(self, message_id: str) -> str:
        """Marks a message as read; returns where it points."""
        with self._hub.db.write() as session:
            return inbox.mark_read(session, self._actor, message_id).link


def signed_in(hub: HubDep, request: Request) -> PagesHub:
    """
    Raises:
        NotAuthenticatedError: Nobody is; a browser is then sent to the sign-in page.
        CrossSiteError: Another site sent the request.
    """
    actor = session_actor(request)
    if actor is None:
        raise NotAuthenticatedError("You are not signed in.")
    return PagesHub(hub, actor)


SignedIn = Annotated[PagesHub, Depends(signed_in)]
