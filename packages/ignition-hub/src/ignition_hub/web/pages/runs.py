"""Runs: the list, one run from its first second to its result, cancelling."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from ignition_client import wire
from ignition_hub.web.hub import SignedIn
from ignition_hub.web.render import template_of
from ignition_hub.web.samples import samples

router = APIRouter(include_in_schema=False)


@router.get("/runs")
def runs(request: Request, hub: SignedIn) -> HTMLResponse:
    return hub.page(request, "runs.html", area="/runs", runs=hub.runs())


@router.get("/runs/{run_id}")
def run(request: Request, hub: SignedIn, run_id: str) -> HTMLResponse:
    shown = hub.run(run_id)
    context: dict[str, Any] = {"report": None, "engine": None, "endpoint": None, "samples": []}
    if shown.train is not None and shown.status is not wire.RunStatus.RUNNING:
        # Also of a run that stopped later on: what was learned is worth seeing.
        context["report"] = hub.report(run_id)
    if shown.status is wire.RunStatus.SUCCEEDED:
        context["engine"] = hub.engine(shown.engine_id) if shown.engine_id else None
        # The endpoint may have been deleted, or serve a later run's engine.
        present = next((one for one in hub.endpoints() if one.name == shown.endpoint), None)
        context["endpoint"] = present if present and present.run_id == run_id else None
        context["samples"] = samples(shown, context["report"], input_of(shown.template))
    return hub.page(
        request,
        "run.html",
        area="/runs",
        run=shown,
        run_id=run_id,
        template_name=hub.template_names().get(shown.template, shown.template),
        **context,
    )


@router.post("/runs/{run_id}/cancel")
def cancel(hub: SignedIn, run_id: str) -> RedirectResponse:
    hub.cancel_run(run_id)
    return RedirectResponse(f"/runs/{run_id}?done=run-cancelled", status_code=303)


def input_of(template_id: str) -> str:
    """What a template's endpoints are asked about."""
    template = template_of(template_id)
    return template.input if template else "image"
