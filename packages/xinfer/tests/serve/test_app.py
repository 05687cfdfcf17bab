"""What takes a fault or a clock to see: the ASGI application in this process, on an engine that obeys."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import uvicorn

from xinfer.manifest import Manifest
from xinfer.package import EnginePackage
from xinfer.serve.app import GatewayApp
from xinfer.serve.connection import Connection
from xinfer.serve.exchange import Limits
from xinfer.serve.host import Catalogue, Endpoint, EngineHost, WorkerPool
from xinfer.tasks import TaskSpec

PREDICT = "/v1/endpoints/tiny/predict"


class ObedientEngine:
    """Answers a constant once it may; or fails."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.task: TaskSpec | None = manifest.task
        self.may_run = threading.Event()
        self.started = threading.Semaphore(0)
        self.may_run.set()
        self.fault: Exception | None = None
        self.num_runs = 0

    def infer(self, feeds: dict[str, np.ndarray], /) -> dict[str, np.ndarray]:
        self.num_runs += 1
        self.started.release()
        assert self.may_run.wait(30)
        if self.fault:
            raise self.fault
        batch = len(feeds["image"])
        return {"score": np.full(batch, 0.25, np.float32), "anomaly_map": np.zeros((batch, 8, 8), np.float32)}

    def close(self) -> None:
        """Nothing to free."""


class Call:
    """One request to an ASGI application, with the caller's side in the test's hands."""

    def __init__(
        self,
        app: GatewayApp,
        body: list[bytes],
        *,
        path: str = PREDICT,
        query: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.hung_up = asyncio.Event()
        self._body = body
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": query.encode(),
            "client": ("127.0.0.1", 1),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            chunk = self._body.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._body)}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def answer(self) -> tuple[int, Any]:
        await self.task
        return self.sent[0]["status"], orjson.loads(self.sent[1]["body"])


@pytest.fixture
def engine(engine_file: Path) -> ObedientEngine:
    return ObedientEngine(EnginePackage.open(engine_file).manifest)


@pytest.fixture
def make_app(engine: ObedientEngine) -> Iterator[Callable[..., GatewayApp]]:
    pools = []

    def make(*, max_queued: int = 8, **limits: Any) -> GatewayApp:
        catalogue = Catalogue()
        host = EngineHost(engine, digest="sha256:" + "0" * 64, public_key=None)
        catalogue.replace({"tiny": Endpoint(name="tiny", key_sha256=None, host=host)})
        pools.append(WorkerPool(1, max_queued=max_queued))
        return GatewayApp(
            catalogue, pools[-1], limits=Limits(**limits), is_ready=lambda: True, asks_for_keys=False
        )

    yield make
    engine.may_run.set()
    for pool in pools:
        pool.close()


def run(scenario: Awaitable[None]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(30):
            await scenario

    asyncio.run(within_time())


def test_internal_failure_says_nothing_of_the_inside_and_is_logged_with_its_id(
    make_app: Callable[..., GatewayApp], engine: ObedientEngine, png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    engine.fault = RuntimeError("secret of the inside")
    app = make_app()

    async def scenario() -> None:
        with caplog.at_level(logging.ERROR):
            status, problem = await Call(app, [png]).answer()
        assert (status, problem["code"]) == (500, "gateway.internal")
        assert "secret" not in str(problem)
        assert problem["request_id"] in caplog.text
        assert "secret of the inside" in caplog.text
        engine.fault = None
        assert (await Call(app, [png]).answer())[0] == 200

    run(scenario())


def test_body_that_does_not_end_in_time_is_answered_408(
    make_app: Callable[..., GatewayApp], png: bytes
) -> None:
    app = make_app(body_timeout_s=0.05, drain_timeout_s=0.05)

    async def scenario() -> None:
        call = Call(app, [png[:10], b""], headers={"transfer-encoding": "chunked"})
        call._body.clear()
        status, problem = await call.answer()
        assert (status, problem["code"]) == (408, "body.timeout")
        assert (b"connection", b"close") in call.sent[0]["headers"]

    run(scenario())


def test_large_bodies_are_refused_when_they_are_too_many_together(
    make_app: Callable[..., GatewayApp], engine: ObedientEngine, png: bytes
) -> None:
    app = make_app(buffered_bytes=len(png) + 10)

    async def scenario() -> None:
        engine.may_run.clear()
        first = Call(app, [png])
        await asyncio.to_thread(engine.started.acquire)
        assert (await Call(app, [png]).answer())[0] == 503
        engine.may_run.set()
        assert (await first.answer())[0] == 200
        assert (await Call(app, [png]).answer())[0] == 200

    run(scenario())


def test_queued_work_is_dropped_when_its_caller_hangs_up(
    make_app: Callable[..., GatewayApp], engine: ObedientEngine, png: bytes
) -> None:
    app = make_app()

    async def scenario() -> None:
        engine.may_run.clear()
        first = Call(app, [png])
        await asyncio.to_thread(engine.started.acquire)
        queued = Call(app, [png])
        while app.pool.in_flight < 2:
            await asyncio.sleep(0)
        queued.hung_up.set()
        await queued.task
        assert queued.sent == []
        assert app.pool.in_flight == 1
        engine.may_run.set()
        assert (await first.answer())[0] == 200
        assert (await Call(app, [png]).answer())[0] == 200
        assert engine.num_runs == 2

    run(scenario())


def test_callers_are_refused_at_once_when_the_queue_is_full(
    make_app: Callable[..., GatewayApp], engine: ObedientEngine, png: bytes
) -> None:
    app = make_app(max_queued=1)

    async def scenario() -> None:
        engine.may_run.clear()
        calls = [Call(app, [png]) for _ in range(2)]
        while app.pool.in_flight < 2:
            await asyncio.sleep(0)
        refused = Call(app, [png])
        status, problem = await refused.answer()
        assert (status, problem["code"]) == (503, "gateway.overloaded")
        assert (b"retry-after", b"1") in refused.sent[0]["headers"]
        engine.may_run.set()
        assert [(await call.answer())[0] for call in calls] == [200, 200]

    run(scenario())


def test_connection_is_closed_when_its_headers_do_not_arrive_in_time(
    make_app: Callable[..., GatewayApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "head_timeout_s", 0.05)
    app = make_app()

    async def scenario() -> None:
        config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
        config.load()
        state = uvicorn.Server(config).server_state
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1"
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        assert await reader.read() == b""
        writer.close()
        server.close()

    run(scenario())
