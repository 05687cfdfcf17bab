"""Templates: the Jinja environment and what every page is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from ignition_client import wire
from ignition_hub import __version__
from ignition_hub.foundry.templates import TEMPLATES
from ignition_hub.web import figures
from ignition_hub.web.format import FILTERS

FOLDER = Path(__file__).parent
# WebAssembly is the uploader's SHA-256; images come as data: from predictions and blob: from drops.
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'wasm-unsafe-eval'",
            "img-src 'self' data: blob:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    ),
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOTICES = {
    "endpoint-deleted": "Endpoint deleted",
    "run-cancelled": "The run is being cancelled",
    "signed-out": "Signed out",
    "link-used": "That setup link was used already: sign in",
}
"""Messages after a redirect, by the value of ``?done=``."""


def thumbnail(dataset: str, path: str, version: int) -> str:
    return f"/v1/datasets/{quote(dataset)}/thumbnails/{quote(path, safe='')}?version={version}"


def dataset_file(dataset: str, path: str, version: int) -> str:
    return f"/v1/datasets/{quote(dataset)}/files/{quote(path, safe='')}?version={version}"


def report_file(run_id: str, path: str) -> str:
    return f"/v1/runs/{quote(run_id)}/report/{quote(path.removeprefix('report/'))}"


def template_of(template_id: str) -> wire.Template | None:
    return next((known for known in TEMPLATES if known.id == template_id), None)


def template_name(template_id: str) -> str:
    known = template_of(template_id)
    return known.name if known else template_id


# Reports and receipts are written by jobs, so a page must survive what one of them leaves out.
environment = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters.update(FILTERS | figures.FILTERS)
environment.tests.update(figures.TESTS)
environment.globals.update(
    static=lambda path: f"/static/{path}",
    thumbnail=thumbnail,
    report_file=report_file,
    template_name=template_name,
    template_of=template_of,
    max_classes=12,
    version=__version__,
)


def render(
    request: Request,
    template: str,
    *,
    me: wire.Me | None = None,
    unread: int = 0,
    area: str = "",
    status_code: int = 200,
    **context: Any,
) -> HTMLResponse:
    """One page.

    Args:
        request: The request it answers; gives the theme and the notice after a redirect.
        template: File name below ``templates/``.
        me: Who is signed in; None on pages for strangers.
        unread: Number of unread inbox messages.
        area: Address of the navigation entry that is marked as the present one.
        status_code: HTTP status.
        context: What the template names.
    """
    theme = request.cookies.get("theme")
    html = environment.get_template(template).render(
        request=request,
        me=me,
        unread=unread,
        area=area,
        theme=theme if theme in ("light", "dark") else None,
        notice=NOTICES.get(request.query_params.get("done", "")),
        **context,
    )
    return HTMLResponse(html, status_code=status_code, headers=HEADERS)


def local_path(target: str | None) -> str:
    """`target` when it is a path on this Hub, else ``/``: a link must not lead a sign-in elsewhere."""
    safe = target and target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if target and safe else "/"


def login_url(request: Request) -> str:
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "/login" if target == "/" else f"/login?{urlencode({'next': target})}"
