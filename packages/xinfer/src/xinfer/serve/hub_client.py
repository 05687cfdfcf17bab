"""The three calls that a gateway makes to its Hub. Blocking; `close` ends a call that waits."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from xinfer.serve.config import GatewayConfig, parse_config
from xinfer.serve.errors import HubError, HubUnavailableError, ServeError

MAX_CONFIG_BYTES = 16 * 2**20
CHUNK_BYTES = 2**20


class HubClient:
    """Talks to `{hub}/v1/gateway`.

    Args:
        url: The Hub's base URL, http or https.
        token: The gateway's bearer token.
        timeout_s: For a silent connection; the Hub answers a waiting configuration call within 20 s.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 45.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServeError(
                f"'{url}' is not a Hub's URL", value=url, hint="give one like http://127.0.0.1:8800"
            )
        self._https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._closed = False

    def config(self, etag: str) -> GatewayConfig:
        """Wait until the configuration differs from `etag`, or some seconds.

        Raises:
            HubUnavailableError: no answer.
            HubError: an answer that is not a configuration.
        """
        with self._request("GET", f"/v1/gateway/config?etag={quote(etag, safe='')}") as response:
            data = response.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise HubError("the configuration is too large", value=len(data))
        return parse_config(data)

    def download(self, digest: str, path: Path) -> None:
        """Fetch a blob to `path`, which appears only when its content has that digest.

        Raises:
            HubUnavailableError: no answer, or it broke off.
            HubError: the content has another digest.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".download-")
        try:
            sha256 = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as file:
                with self._request("GET", f"/v1/gateway/blobs/{digest}") as response:
                    while chunk := response.read(CHUNK_BYTES):
                        sha256.update(chunk)
                        file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            found = f"sha256:{sha256.hexdigest()}"
            if found != digest:
                raise HubError(
                    f"the Hub sent {found} instead of {digest}",
                    code="blob.digest_mismatch",
                    value=found,
                    hint="the file on the Hub is damaged; build the engine again",
                )
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def report(self, ready: list[str], failed: dict[str, dict[str, Any]]) -> None:
        """Tell the Hub what is served now (`wire.GatewayReport`). Raises HubUnavailableError, HubError."""
        body = orjson.dumps({"ready": ready, "failed": failed})
        with self._request("POST", "/v1/gateway/status", body) as response:
            response.read(CHUNK_BYTES)

    def close(self) -> None:
        """End the call in progress, if any; later calls fail."""
        with self._lock:
            self._closed = True
            connection = self._connection
        if connection is not None and connection.sock is not None:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    @contextmanager
    def _request(
        self, method: str, path: str, body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        with self._lock:
            self._connection = connection
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.connect()
            with self._lock:
                # `close` cannot end a connection that is being made.
                if self._closed:
                    raise HubUnavailableError("the gateway is stopping")
            connection.request(method, self._base + path, body, headers)
            response = connection.getresponse()
            if response.status >= 500 or response.status in (408, 429):
                raise HubUnavailableError(f"the Hub answered {response.status}", value=response.status)
            if response.status >= 300:
                raise HubError(
                    f"the Hub answered {response.status} to {method} {path.partition('?')[0]}",
                    value=response.status,
                    hint="check the gateway's token and the Hub's version",
                )
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise HubUnavailableError(f"the Hub does not answer: {error}") from error
        finally:
            with self._lock:
                self._connection = None
            connection.close()
