"""The web application: REST under ``/v1``, the pages, and the orchestrator behind them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

import structlog
from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ignition_client import wire
from ignition_hub import __version__, observability, problems
from ignition_hub.accounts import api as accounts
from ignition_hub.datasets import api as datasets
from ignition_hub.endpoints import api as endpoints
from ignition_hub.errors import BadRequestError
from ignition_hub.foundry import api as foundry
from ignition_hub.hub import Hub
from ignition_hub.inbox import api as inbox
from ignition_hub.jobs import agent_api
from ignition_hub.jobs import api as jobs
from ignition_hub.registry import api as registry
from ignition_hub.settings import Settings
from ignition_hub.storage import api as storage

logger = structlog.get_logger(__name__)
_SWEEP_S = 1.0
MAX_BODY_BYTES = 64 * 1024**2
"""Of forms and JSON; the largest is the list of a dataset's files."""

health_router = APIRouter(prefix="/v1", tags=["health"])


@health_router.get("/health")
def health() -> wire.Health:
    return wire.Health(status="ok", version=__version__)


def create_app(settings: Settings) -> FastAPI:
    """The Hub as an ASGI application; its lifespan opens and closes everything.

    ``app.state.hub`` is the `Hub` that requests reach.
    """
    hub = Hub(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub.signals.open()
        # In a thread: DBOS would otherwise run its workflows on this event loop.
        await asyncio.to_thread(hub.open)
        sweeper = asyncio.create_task(_sweep(hub))
        try:
            yield
        finally:
            hub.signals.close()
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper
            await hub.playground.close()
            await asyncio.to_thread(hub.close)

    app = FastAPI(
        title="Ignition Hub",
        version=__version__,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.hub = hub
    app.state.metrics = observability.Metrics(hub.db)
    for router in (
        health_router,
        accounts.router,
        storage.router,
        datasets.router,
        foundry.router,
        jobs.router,
        agent_api.router,
        registry.router,
        endpoints.router,
        endpoints.gateway_router,
        inbox.router,
        observability.router,
    ):
        app.include_router(router)
    app.add_middleware(_PlainRequests)
    problems.install(app)
    if find_spec("ignition_hub.web") is not None:
        from ignition_hub import web

        web.register(app)
    app.add_middleware(observability.RequestMetrics, metrics=app.state.metrics)
    return app


async def _sweep(hub: Hub) -> None:
    """Gives the jobs of silent agents to others."""

    def sweep() -> None:
        with hub.db.read() as session:
            if not hub.jobs.expired(session):
                return
        with hub.db.write() as session:
            num = hub.jobs.requeue_expired(session)
        logger.warning("leases expired", num=num)

    while True:
        try:
            await run_in_threadpool(sweep)
        except Exception:
            logger.exception("the sweeper failed; it goes on")
        await asyncio.sleep(_SWEEP_S)


class _PlainRequests:
    """Turns away NUL in an address (PostgreSQL knows no such text) and bodies that fill the memory.

    Forms and JSON are read whole before anybody looks at who sends them. What is sent to blobs and to the
    playground is read by their own routes, in pieces and with limits of their own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            raise BadRequestError("The address contains a NUL character.")
        if scope["type"] == "http" and scope["method"] != "PUT" and not scope["path"].endswith("/predict"):
            receive = _bounded(receive)
        await self._app(scope, receive, send)


def _bounded(receive: Receive) -> Receive:
    size_bytes = 0

    async def bounded() -> Message:
        nonlocal size_bytes
        message = await receive()
        size_bytes += len(message.get("body", b""))
        if size_bytes > MAX_BODY_BYTES:
            # Not a `HubError`: FastAPI makes a 400 of whatever else goes wrong with a body.
            raise HTTPException(413, "Content Too Large")
        return message

    return bounded
