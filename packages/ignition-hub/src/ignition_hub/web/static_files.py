"""The pages' style, scripts and font."""

from __future__ import annotations

from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from ignition_hub.web.render import FOLDER, HEADERS


class PageFiles(StaticFiles):
    """Files below ``static/``. Browsers keep them and ask whether they changed: an upgrade shows at once."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER / "static")

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update({**HEADERS, "Cache-Control": "no-cache"})
        return response
