"""Datasets, models, engines, endpoints and the inbox."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from ignition_hub.web.hub import SignedIn
from ignition_hub.web.pages.runs import input_of
from ignition_hub.web.samples import samples

router = APIRouter(include_in_schema=False)


@router.get("/datasets")
def datasets(request: Request, hub: SignedIn) -> HTMLResponse:
    return hub.page(request, "datasets.html", area="/datasets", datasets=hub.datasets())


@router.get("/datasets/{name}")
def dataset(request: Request, hub: SignedIn, name: str, version: int | None = None) -> HTMLResponse:
    detail = hub.dataset(name, version)
    runs = [run for run in hub.runs() if run.dataset == name]
    return hub.page(request, "dataset.html", area="/datasets", dataset=detail, runs=runs, with_next=False)


@router.get("/datasets/{name}/check")
def check(
    request: Request, hub: SignedIn, name: str, version: int | None = None, next: bool = False
) -> HTMLResponse:
    """The data check alone, asked for by htmx until it is done."""
    return hub.page(request, "_check.html", dataset=hub.dataset(name, version), with_next=next)


@router.get("/models")
def models(request: Request, hub: SignedIn) -> HTMLResponse:
    return hub.page(
        request,
        "models.html",
        area="/models",
        models=hub.models(),
        engines=hub.engines(),
        template_names=hub.template_names(),
    )


@router.get("/engines/{engine_id}")
def engine(request: Request, hub: SignedIn, engine_id: str) -> HTMLResponse:
    return hub.page(request, "engine.html", area="/models", engine=hub.engine(engine_id))


@router.get("/endpoints")
def endpoints(request: Request, hub: SignedIn) -> HTMLResponse:
    return hub.page(
        request,
        "endpoints.html",
        area="/endpoints",
        endpoints=hub.endpoints(),
        template_names=hub.template_names(),
    )


@router.get("/endpoints/{name}")
def endpoint(request: Request, hub: SignedIn, name: str) -> HTMLResponse:
    shown = hub.endpoint(name)
    report = hub.report(shown.run_id) if shown.run_id else None
    tried = samples(hub.run(shown.run_id), report, input_of(shown.template)) if shown.run_id else []
    return hub.page(request, "endpoint.html", area="/endpoints", endpoint=shown, report=report, samples=tried)


@router.post("/endpoints/{name}/delete")
def delete(hub: SignedIn, name: str) -> RedirectResponse:
    hub.delete_endpoint(name)
    return RedirectResponse("/endpoints?done=endpoint-deleted", status_code=303)


@router.get("/inbox")
def inbox(request: Request, hub: SignedIn) -> HTMLResponse:
    return hub.page(request, "inbox.html", messages=hub.inbox())


@router.get("/inbox/{message_id}")
def read(hub: SignedIn, message_id: str) -> RedirectResponse:
    """Marks the message as read and goes where it points."""
    return RedirectResponse(hub.read_message(message_id), status_code=303)
