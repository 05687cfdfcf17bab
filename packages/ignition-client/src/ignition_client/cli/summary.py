"""What a successful run is worth: everything to see and to copy, gathered and printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ignition_client.api import Ignition
from ignition_client.cli import render
from ignition_client.errors import ClientError
from ignition_client.wire import CheckReport, Endpoint, EngineDetail, Run


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run and what it made. `key` is there only if it was made for this summary."""

    run: Run
    report: dict[str, Any]
    engine: EngineDetail
    endpoint: Endpoint
    key: str | None
    page_url: str
    curl: str
    python: str


def gather(hub: Ignition, run: Run, *, data: Path | None = None, new_key: bool = False) -> RunSummary:
    """Asks the Hub for all that a successful run made.

    Args:
        data: The folder that was pushed, so that the snippets can name an image that exists.
        new_key: Make a key even if the endpoint has one, which then stops working. Without it, a key is
            made only for an endpoint that never had one.
    """
    if run.endpoint is None or run.engine_id is None:
        raise ClientError("The run has no endpoint.", value=run.id)
    report = hub.runs.report(run.id)
    engine = hub.engines.show(run.engine_id)
    endpoint = hub.endpoints.show(run.endpoint)
    key = hub.endpoints.create_key(endpoint.name).key if new_key or not endpoint.key_prefix else None
    image, shown_key = _sample(report, data), key or "YOUR-KEY"
    kind = next((one.input for one in hub.templates.list() if one.id == endpoint.template), "image")
    return RunSummary(
        run=run,
        report=report,
        engine=engine,
        endpoint=endpoint,
        key=key,
        page_url=f"{hub.url}/endpoints/{endpoint.name}",
        curl=render.curl_snippet(endpoint.url, shown_key, image, kind),
        python=render.python_snippet(endpoint.url, shown_key, image, kind),
    )


def show(summary: RunSummary) -> RenderableType:
    """The whole story, from the data check to the snippets."""
    receipt, endpoint = summary.engine.receipt, summary.endpoint
    parts: list[RenderableType] = []
    if found := summary.report.get("check"):
        parts += [render.check(CheckReport.model_validate(found)), Text()]
    parts += [render.training(summary.report), render.candidates(receipt)]
    if measured := render.comparison(receipt):
        parts += [measured, Text()]
    parts.append(
        render.fields(
            ("endpoint", endpoint.url),
            (
                "key",
                Text(summary.key, style="bold")
                if summary.key
                else f"the one there is ({endpoint.key_prefix}…)",
            ),
            ("", "shown this once; `ignition endpoints rotate-key` makes another" if summary.key else None),
            ("web page", summary.page_url),
        )
    )
    parts += [
        Text("\ncurl", style="bold"), Text(summary.curl),
        Text("\nPython", style="bold"), Text(summary.python),
    ]  # fmt: skip
    return Group(*parts)


def _sample(report: dict[str, Any], data: Path | None) -> str:
    """An image to try: a held-out one with a defect if the folder is at hand."""
    if data is not None:
        with_path = [item for item in report.get("held_out", []) if isinstance(item.get("path"), str)]
        for item in sorted(with_path, key=lambda item: item.get("label") in (0, "ok")):
            path = data / item["path"]
            if path.is_file():
                return str(path.absolute())
    return "photo.jpg"
