"""One HTTP connection pool to a Hub: retries, timeouts, typed errors."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from ignition_client.errors import (
    ConfigError,
    HubError,
    HubUnreachableError,
    ProtocolError,
    error_from_answer,
)

T = TypeVar("T")

USER_AGENT = f"ignition-client/{version('ignition-client')}"
RETRY_STATUS = frozenset({429, 502, 503, 504})
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_MAX_PAUSE_S = 15.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class HubHttp:
    """Requests to one Hub with one bearer token.

    Args:
        url: Base URL, e.g. ``http://127.0.0.1:8800``.
        token: Sent as ``Authorization: Bearer``; None sends none.
        timeout_s: For connecting and for each read or write, seconds.
        attempts: Tries per request before it is given up, at least 1. A request is tried again if it was
            never sent (no connection), or if it is idempotent and the answer was lost or 429/502/503/504.
        backoff_s: First pause, seconds; doubles, with jitter, up to 15 s. ``Retry-After`` wins.
        transport: For tests.

    Raises:
        ConfigError: `url` is not an http(s) URL.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        attempts: int = 5,
        backoff_s: float = 0.3,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("The Hub's address is not an http(s) URL.", value=url)
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._attempts = max(1, attempts)
        self._backoff_s = backoff_s
        self._sleep = sleep
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
            transport=transport,
            trust_env=parts.hostname not in _LOOPBACK,  # a proxy cannot reach this machine's own Hub
        )

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> HubHttp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        content: bytes | Path | None = None,
        params: Mapping[str, str | int | float] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
        attempts: int | None = None,
    ) -> httpx.Response:
        """Sends one request and returns its successful answer, body read.

        Args:
            body: Sent as JSON.
            content: Sent as it is; a path is streamed from the file.
            timeout_s: Instead of the pool's, e.g. for a long poll.
            idempotent: Whether sending it twice is harmless; default: by method.
            attempts: Instead of the pool's.

        Raises:
            HubError: The Hub answered with an error (subclass by status).
            HubUnreachableError: No answer after all attempts.
        """
        if body is not None:
            content = body.model_dump_json().encode()
            headers = {"Content-Type": "application/json", **(headers or {})}

        def send() -> httpx.Response:
            timeout = (
                httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s, connect=10.0)
            )
            if not isinstance(content, Path):
                return self._client.request(
                    method, path, content=content, params=params, headers=headers, timeout=timeout
                )
            with content.open("rb") as file:
                return self._client.request(
                    method, path, content=file, params=params, headers=headers, timeout=timeout
                )

        again = method in _IDEMPOTENT if idempotent is None else idempotent
        return self._retry(send, idempotent=again, attempts=attempts or self._attempts)

    def _retry(
        self, send: Callable[[], httpx.Response], *, idempotent: bool, attempts: int
    ) -> httpx.Response:
        for attempt in range(1, attempts + 1):
            last = attempt == attempts
            pause_s = min(_MAX_PAUSE_S, self._backoff_s * 2 ** (attempt - 1)) * random.uniform(0.7, 1.3)  # noqa: S311
            try:
                response = send()
            except httpx.TransportError as error:
                never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                if last or not (idempotent or never_sent):
                    raise self._unreachable(error) from error
            except httpx.InvalidURL as error:
                raise ConfigError("The Hub's address cannot be used.", value=self.url) from error
            else:
                # 429 says that nothing was done, so any method may try again.
                transient = response.status_code in RETRY_STATUS and (
                    idempotent or response.status_code == 429
                )
                if not transient or last:
                    raise_for_error(response)
                    return response
                pause_s = _retry_after_s(response) or pause_s
            self._sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, error: Exception) -> HubUnreachableError:
        return HubUnreachableError(
            f"No answer from {self.url}: {error or type(error).__name__}.", value=self.url
        )

    # ------------------------------------------------------------------------------ parsed answers

    def read(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """Sends a request (see `request`) and returns its answer as `kind`, e.g. ``list[wire.Run]``.

        Raises:
            ProtocolError: The answer does not fit `kind`.
        """
        response = self.request(method, path, **options)
        return parse_answer(kind, response.content, f"{method} {path}")

    @contextmanager
    def stream(
        self, path: str, *, accept: str = "*/*", timeout_s: float | None = None
    ) -> Iterator[httpx.Response]:
        """One GET whose body is read as it comes; not retried: the caller knows how to resume.

        Raises:
            HubError, HubUnreachableError: also when the connection breaks while the body is read.
        """
        timeout = httpx.Timeout(timeout_s or self._timeout_s, connect=10.0)
        try:
            with self._client.stream("GET", path, headers={"Accept": accept}, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise_for_error(response)
                yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from error


def parse_answer(kind: type[T], content: bytes | str, what: str) -> T:
    """`content` (JSON) as `kind`; ProtocolError where it does not fit."""
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise ProtocolError(
            f"The answer to {what} cannot be read: {error.errors()[0]['msg']}.", value=what
        ) from error


def raise_for_error(response: httpx.Response) -> None:
    """Raises the typed error that an error answer (body read) stands for."""
    if response.is_success:
        return
    try:
        body = response.json()
    except ValueError:
        body = None
    error: HubError = error_from_answer(
        response.status_code, body, request_id=response.headers.get("x-request-id")
    )
    if response.is_redirect:
        error = ProtocolError("The address answers with a redirect.", value=response.headers.get("location"))
    raise error


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return min(_MAX_PAUSE_S, max(0.0, float(response.headers["retry-after"])))
    except (KeyError, ValueError):  # absent, or a date
        return None
