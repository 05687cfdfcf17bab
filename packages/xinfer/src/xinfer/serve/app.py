"""The gateway as one ASGI application: routes, keys, errors. Engines run in `host`, tensors in `work`."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import parse_qs

import orjson

from xinfer.errors import InputError
from xinfer.serve import documents, keys, work
from xinfer.serve.errors import ProblemError
from xinfer.serve.exchange import Answer, BodyBudget, Exchange, Limits, Receive, Send
from xinfer.serve.host import Catalogue, ClientGoneError, Endpoint, WorkerPool
from xinfer.serve.metrics import EndpointMetrics, render
from xinfer.serve.oip import HEADER_LENGTH

logger = logging.getLogger(__name__)

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="endpoint"'}


class GatewayApp:
    """Serves the endpoints of a catalogue.

    Args:
        catalogue: The endpoints; replaced by others while this runs.
        pool: Threads for the work.
        limits: See `Limits`.
        is_ready: Whether the first configuration is loaded.
        asks_for_keys: False: a caller without a key is told which endpoints are unknown.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        pool: WorkerPool,
        *,
        limits: Limits,
        is_ready: Callable[[], bool],
        asks_for_keys: bool = True,
    ) -> None:
        self.catalogue = catalogue
        self.pool = pool
        self.limits = limits
        self.is_ready = is_ready
        self.asks_for_keys = asks_for_keys
        self.metrics: dict[str, EndpointMetrics] = {}
        self._budget = BodyBudget(limits.buffered_bytes)
        self._version = _version()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "lifespan and websockets are switched off in the server"
        exchange = Exchange(scope, receive, send, self.limits, self._budget)
        try:
            answer = await self._answer(exchange)
        except ClientGoneError:
            return
        except ProblemError as error:
            answer = _problem(exchange, error)
        except InputError as error:
            answer = _problem(exchange, ProblemError("input.invalid", error.message))
        except Exception:
            logger.exception("request %s failed: %s %s", exchange.id, exchange.method, exchange.path)
            answer = _problem(
                exchange, ProblemError("gateway.internal", "The request could not be answered.")
            )
        finally:
            exchange.close()
        if exchange.endpoint is not None:
            duration_s = time.perf_counter() - exchange.started_s
            self._metrics(exchange.endpoint).observe(answer.status, duration_s)
        await exchange.answer(answer)

    async def _answer(self, exchange: Exchange) -> Answer:
        for pattern, routes in ROUTES:
            if match := pattern.fullmatch(exchange.path):
                handler = routes.get("GET" if exchange.method == "HEAD" else exchange.method)
                if handler is None:
                    allowed = ", ".join(routes)
                    raise ProblemError(
                        "method.not_allowed",
                        f"{exchange.method[:20]} is not allowed here; use {allowed}.",
                        headers={"Allow": allowed},
                    )
                return await handler(self, exchange, **match.groupdict())
        raise ProblemError("path.unknown", "There is nothing at this path.")

    # ---------------------------------------------------------------------------------------- keys

    def _authorise(self, exchange: Exchange, name: str, wanted_version: str | None = None) -> Endpoint:
        """The endpoint, if the request's key opens it.

        A caller without any key learns nothing, not even whether the name exists.
        """
        endpoint = self.catalogue.endpoints.get(name)
        key = keys.presented_key(exchange.headers)
        if key is None and self.asks_for_keys:
            raise ProblemError("key.missing", "This request carries no key.", headers=CHALLENGE)
        if endpoint is None:
            raise ProblemError("endpoint.unknown", f"There is no endpoint '{name[:80]}'.")
        if not _opens(key, endpoint):
            raise ProblemError("key.invalid", f"This key does not open endpoint '{name}'.", headers=CHALLENGE)
        if wanted_version not in (None, endpoint.version):
            raise ProblemError(
                "version.unknown",
                f"Model '{name}' has version {endpoint.version}, not '{str(wanted_version)[:40]}'.",
            )
        return endpoint

    def _visible(self, exchange: Exchange) -> list[Endpoint]:
        """The endpoints that the request's key opens; at least one.

        Raises:
            ProblemError: none.
        """
        key = keys.presented_key(exchange.headers)
        visible = [endpoint for endpoint in self.catalogue.endpoints.values() if _opens(key, endpoint)]
        if not visible:
            code = "key.missing" if key is None else "key.invalid"
            raise ProblemError(code, "This needs the key of an endpoint.", headers=CHALLENGE)
        return visible

    def _metrics(self, name: str) -> EndpointMetrics:
        return self.metrics.setdefault(name, EndpointMetrics())

    # ----------------------------------------------------------------------------------- inference

    async def predict(self, exchange: Exchange, name: str) -> Answer:
        exchange.endpoint = self._authorise(exchange, name).name
        content_type = exchange.header("Content-Type") or ""
        heatmap = parse_qs(exchange.query).get("heatmap", [])
        if heatmap not in ([], ["png"]):
            raise ProblemError("query.invalid", f"There is no heat map '{heatmap[-1][:40]}'.")
        body = await exchange.body()
        if not body:
            raise ProblemError("body.empty", "The request has no body.")
        started_s = time.perf_counter()
        with self.catalogue.lease(name) as endpoint:
            return Answer(
                await self.pool.run(
                    lambda: work.predict(
                        endpoint,
                        body,
                        content_type=content_type,
                        heatmap=bool(heatmap),
                        started_s=started_s,
                    ),
                    exchange.disconnected,
                )
            )

    async def infer(self, exchange: Exchange, name: str, wanted_version: str | None) -> Answer:
        exchange.endpoint = self._authorise(exchange, name, wanted_version).name
        body = await exchange.body()
        header_length = exchange.header(HEADER_LENGTH)
        encoding = exchange.header("Content-Encoding") or ""
        with self.catalogue.lease(name) as endpoint:
            content, json_length = await self.pool.run(
                lambda: work.infer(
                    endpoint,
                    body,
                    header_length=header_length,
                    encoding=encoding,
                    limit_bytes=self.limits.body_bytes,
                ),
                exchange.disconnected,
            )
        if json_length is None:
            return Answer(content)
        headers = ((HEADER_LENGTH.lower().encode(), str(json_length).encode()),)
        return Answer(content, media_type=b"application/octet-stream", headers=headers)

    # ----------------------------------------------------------------------------------- documents

    async def server_metadata(self, _: Exchange) -> Answer:
        return _json(documents.server_metadata(self._version))

    async def live(self, _: Exchange) -> Answer:
        return _json({"live": True})

    async def ready(self, _: Exchange) -> Answer:
        ready = self.is_ready()
        return _json({"ready": ready}, 200 if ready else 503)

    async def health(self, _: Exchange) -> Answer:
        return _json({"status": "ok" if self.is_ready() else "starting", "version": self._version})

    async def model_metadata(self, exchange: Exchange, name: str, wanted_version: str | None) -> Answer:
        return _json(documents.model_metadata(self._authorise(exchange, name, wanted_version)))

    async def model_ready(self, exchange: Exchange, name: str, wanted_version: str | None) -> Answer:
        self._authorise(exchange, name, wanted_version)
        return _json({"name": name, "ready": True})

    async def model_config(self, exchange: Exchange, name: str, wanted_version: str | None) -> Answer:
        return _json(documents.model_config(self._authorise(exchange, name, wanted_version)))

    async def model_stats(self, exchange: Exchange, name: str, wanted_version: str | None) -> Answer:
        endpoint = self._authorise(exchange, name, wanted_version)
        return _json({"model_stats": [documents.model_stats(endpoint, self._metrics(name))]})

    async def all_stats(self, exchange: Exchange) -> Answer:
        entries = [
            documents.model_stats(endpoint, self._metrics(endpoint.name))
            for endpoint in self._visible(exchange)
        ]
        return _json({"model_stats": entries})

    async def repository_index(self, exchange: Exchange) -> Answer:
        visible = self._visible(exchange)
        await exchange.body()
        return _json([documents.repository_entry(endpoint) for endpoint in visible])

    async def repository_change(self, exchange: Exchange, name: str) -> Answer:
        self._authorise(exchange, name)
        raise ProblemError("repository.read_only", "This gateway serves what its Hub deploys.")

    async def metrics_text(self, exchange: Exchange) -> Answer:
        """All endpoints for a scraper on this machine, a key's own endpoints for everybody else."""
        forwarded = b"x-forwarded-for" in exchange.headers or b"forwarded" in exchange.headers
        shown = self.metrics
        if exchange.client not in ("127.0.0.1", "::1") or forwarded:
            shown = {endpoint.name: self._metrics(endpoint.name) for endpoint in self._visible(exchange)}
        text = render(shown, in_flight=self.pool.in_flight)
        return Answer(text.encode(), media_type=b"text/plain; version=0.0.4; charset=utf-8")


Handler = Callable[..., Awaitable[Answer]]

_MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<wanted_version>[^/]+))?"
_ROUTES: list[tuple[str, dict[str, Handler]]] = [
    (r"/v1/endpoints/(?P<name>[^/]+)/predict", {"POST": GatewayApp.predict}),
    (_MODEL + "/infer", {"POST": GatewayApp.infer}),
    ("/healthz", {"GET": GatewayApp.health}),
    ("/metrics", {"GET": GatewayApp.metrics_text}),
    ("/v2/?", {"GET": GatewayApp.server_metadata}),
    ("/v2/health/live", {"GET": GatewayApp.live}),
    ("/v2/health/ready", {"GET": GatewayApp.ready}),
    # Before the models' own routes: here "stats" is no model's name.
    ("/v2/models/stats", {"GET": GatewayApp.all_stats}),
    (_MODEL, {"GET": GatewayApp.model_metadata}),
    (_MODEL + "/ready", {"GET": GatewayApp.model_ready}),
    (_MODEL + "/config", {"GET": GatewayApp.model_config}),
    (_MODEL + "/stats", {"GET": GatewayApp.model_stats}),
    ("/v2/repository/index", {"POST": GatewayApp.repository_index}),
    (r"/v2/repository/models/(?P<name>[^/]+)/(?:load|unload)", {"POST": GatewayApp.repository_change}),
]
ROUTES = [(re.compile(pattern), handlers) for pattern, handlers in _ROUTES]


def _opens(key: bytes | None, endpoint: Endpoint) -> bool:
    if endpoint.key_sha256 is None:
        return True
    return key is not None and keys.accepts(endpoint.key_sha256, key)


def _problem(exchange: Exchange, problem: ProblemError) -> Answer:
    headers = tuple((name.lower().encode(), value.encode()) for name, value in problem.headers.items())
    if exchange.path.startswith("/v2"):
        text = f"{problem.message} {problem.hint}" if problem.hint else problem.message
        return Answer(orjson.dumps({"error": text}), problem.status, headers=headers)
    body = orjson.dumps(problem.to_json(exchange.id))
    return Answer(body, problem.status, b"application/problem+json", headers)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(orjson.dumps(value), status)


def _version() -> str:
    try:
        return version("ignition-xinfer")
    except PackageNotFoundError:
        return "unknown"
