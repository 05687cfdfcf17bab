"""Runs: the list, one run from its first second to its result, cancelling."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from ignition_client import wire
from ignition_hub.web.hub import SignedIn
from ignition_hub.web.render import dataset_file, label_name, thumbnail

router = APIRouter(include_in_schema=False)

NUM_SAMPLES = 16
"""Held-out images offered in the playground."""


@router.get("/runs")
def runs(request: Request, hub: SignedIn) -> HTMLResponse:
    return hub.page(request, "runs.html", area="/runs", runs=hub.runs())


@router.get("/runs/{run_id}")
def run(request: Request, hub: SignedIn, run_id: str) -> HTMLResponse:
    shown = hub.run(run_id)
    context: dict[str, Any] = {"report": None, "engine": None, "endpoint": None, "samples": []}
    if shown.status is wire.RunStatus.SUCCEEDED:
        context["report"] = hub.report(run_id)
        context["engine"] = hub.engine(shown.engine_id) if shown.engine_id else None
        # The endpoint may have been deleted, or serve a later run's engine.
        present = next((one for one in hub.endpoints() if one.name == shown.endpoint), None)
        context["endpoint"] = present if present and present.run_id == run_id else None
        context["samples"] = samples(shown, context["report"])
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


def samples(run: wire.Run, report: dict[str, Any] | None) -> list[dict[str, str]]:
    """Held-out images to click on: defective and ok ones in turn."""
    by_label: dict[str, list[str]] = {"defective": [], "ok": []}
    for item in (report or {}).get("held_out", []):
        by_label.setdefault(label_name(item["label"]), []).append(item["path"])
    kinds = [
        [(label, path) for path in _spread(paths, NUM_SAMPLES // 2)] for label, paths in by_label.items()
    ]
    mixed = [pair for turn in range(NUM_SAMPLES) for kind in kinds for pair in kind[turn : turn + 1]]
    name, version = run.dataset, run.dataset_version
    return [
        {
            "path": path,
            "label": label,
            "thumbnail": thumbnail(name, path, version),
            "file": dataset_file(name, path, version),
        }
        for label, path in mixed[:NUM_SAMPLES]
    ]


def _spread(paths: list[str], number: int) -> list[str]:
    """`number` of them, evenly over the list, so that several kinds of defects are among them."""
    if len(paths) <= number:
        return paths
    return [paths[i * len(paths) // number] for i in range(number)]
