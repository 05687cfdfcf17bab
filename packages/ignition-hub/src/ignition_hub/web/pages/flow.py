"""Home, and the way from a folder to a run: data, check, template, *Train & Optimize*."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from ignition_client import wire
from ignition_hub.errors import HubError
from ignition_hub.web.hub import SignedIn
from ignition_hub.web.pages.problems import FormProblem

router = APIRouter(include_in_schema=False)


@router.get("/")
def home(request: Request, hub: SignedIn) -> HTMLResponse:
    return hub.page(request, "home.html", area="/", runs=hub.runs(), endpoints=hub.endpoints())


@router.get("/new")
def new(
    request: Request,
    hub: SignedIn,
    dataset: str | None = None,
    version: int | None = None,
    step: str = "check",
    name: str | None = None,
) -> Response:
    if dataset is None:
        return hub.page(request, "new_data.html", datasets=hub.datasets())
    detail = hub.dataset(dataset, version)
    if step != "train":
        return hub.page(request, "new_check.html", dataset=detail, with_next=True)
    if detail.check is None or not has_template(detail.check):
        return RedirectResponse(f"/new?dataset={detail.name}&version={detail.version}", status_code=303)
    return _choose_template(request, hub, detail, name or detail.name)


def has_template(check: wire.CheckReport) -> bool:
    """Whether there is a template to choose: what blocks one need not block another."""
    return not check.blocking or any(template != check.template for template in check.suits)


async def _answers(request: Request) -> dict[str, str]:
    """The fields that a template's questions made: ``<template>.<question>``."""
    return {name: str(value) for name, value in (await request.form()).items() if "." in name}


@router.post("/new")
def start(
    request: Request,
    hub: SignedIn,
    template: Annotated[str, Form()],
    dataset: Annotated[str, Form()],
    dataset_version: Annotated[int, Form()],
    name: Annotated[str, Form()],
    max_drop: Annotated[float, Form()],
    idempotency_key: Annotated[str, Form()],
    answers: Annotated[dict[str, str], Depends(_answers)],
    budget_s: Annotated[float | None, Form()] = None,
) -> Response:
    try:
        run = hub.start_run(
            wire.RunStart(
                name=name,
                template=template,
                dataset=dataset,
                dataset_version=dataset_version,
                budget_s=budget_s,
                max_drop=max_drop,
                settings=hub.settings_of(template, answers),
                idempotency_key=idempotency_key,
            )
        )
    except (ValidationError, HubError) as error:
        problem = FormProblem.of(error, "The run was not started")
        detail = hub.dataset(dataset, dataset_version)
        return _choose_template(request, hub, detail, name, problem, {"template": template, **answers})
    return RedirectResponse(f"/runs/{run.id}", status_code=303)


def _choose_template(
    request: Request,
    hub: SignedIn,
    detail: wire.DatasetDetail,
    name: str,
    error: FormProblem | None = None,
    given: dict[str, str] | None = None,
) -> HTMLResponse:
    """The templates that the data suits first, one that its check allows chosen.

    Args:
        given: What was answered before, by the form's fields.
    """
    suits = detail.check.suits if detail.check else []
    blocked = detail.check.template if detail.check and detail.check.blocking else None
    templates = sorted(
        hub.templates(),
        key=lambda one: (
            not one.available,
            suits.index(one.id) + len(suits) * (one.id == blocked) if one.id in suits else 2 * len(suits),
        ),
    )
    return hub.page(
        request,
        "new_train.html",
        dataset=detail,
        templates=templates,
        suits=suits,
        blocked=blocked,
        given=given or {},
        name=name,
        idempotency_key=uuid.uuid4().hex,
        error=error,
        status_code=422 if error else 200,
    )
