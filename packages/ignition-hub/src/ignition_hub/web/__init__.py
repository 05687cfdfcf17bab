"""The browser's side of the Hub: server-rendered pages and the static files they use."""

from __future__ import annotations

from fastapi import FastAPI

from ignition_hub.web.errors import wrap_error_handlers
from ignition_hub.web.pages import account, flow, library, runs
from ignition_hub.web.static_files import PageFiles


def register(app: FastAPI) -> None:
    """Adds pages, static files and error pages; call it after `problems.install`."""
    app.mount("/static", PageFiles(), name="static")
    for area in (account, flow, runs, library):
        app.include_router(area.router)
    wrap_error_handlers(app)
