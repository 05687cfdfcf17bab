"""One HTTP exchange over ASGI: a body that is read within limits, an answer that its caller gets to see."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from xinfer.serve.errors import ProblemError
from xinfer.serve.host import ClientGoneError

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one caller may cost the others.

    Attributes:
        body_bytes: Largest request body.
        buffered_bytes: Bodies of all requests together.
        body_timeout_s: For a body to arrive.
        drain_bytes, drain_timeout_s: How much of a refused body is swallowed so that its sender, busy
            sending, gets to see the answer.
    """

    body_bytes: int = 20 * 2**20
    buffered_bytes: int = 512 * 2**20
    body_timeout_s: float = 30.0
    drain_bytes: int = 200 * 2**20
    drain_timeout_s: float = 10.0


@dataclass(frozen=True)
class Answer:
    body: bytes
    status: int = 200
    media_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class BodyBudget:
    """Bytes of request bodies in memory, over all exchanges."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Account for bytes received. Raises ProblemError when all of them are too many."""
        self.used_bytes += num_bytes
        if self.used_bytes > self.limit_bytes:
            raise ProblemError(
                "gateway.overloaded",
                "Too many large bodies are being received.",
                headers={"Retry-After": "1"},
            )


class Exchange:
    """A request and the way to answer it.

    Args:
        scope, receive, send: ASGI's.
        limits: See `Limits`.
        budget: Shared by all exchanges; what this one takes, `close` gives back.
    """

    def __init__(
        self, scope: dict[str, Any], receive: Receive, send: Send, limits: Limits, budget: BodyBudget
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query = scope["query_string"].decode("latin-1")
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started_s = time.perf_counter()
        given_id = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given_id if REQUEST_ID.fullmatch(given_id) else secrets.token_hex(8)
        self.endpoint: str | None = None
        """The endpoint that was asked for an inference, once the key was found right."""
        self._receive = receive
        self._send = send
        self._limits = limits
        self._budget = budget
        self._num_bytes = 0
        self._complete = False

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    async def disconnected(self) -> None:
        """Return when the caller has hung up; to be called once the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            ProblemError: too large, too slow, or too many others.
            ClientGoneError: the caller hung up.
        """
        limit = self._limits.body_bytes
        too_large = ProblemError("body.too_large", f"The body is larger than {limit} bytes.")
        declared_bytes = self._declared_bytes()
        if declared_bytes is not None and declared_bytes > limit:
            raise too_large
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while not self._complete:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    chunk = message.get("body", b"")
                    self._complete = not message.get("more_body", False)
                    chunks.append(chunk)
                    self._num_bytes += len(chunk)
                    self._budget.take(len(chunk))
                    if self._num_bytes > limit:
                        raise too_large
        except TimeoutError as error:
            raise ProblemError(
                "body.timeout",
                f"{self._num_bytes} bytes arrived within {self._limits.body_timeout_s:g} seconds.",
            ) from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def answer(self, answer: Answer) -> None:
        """Send the answer, and swallow what the caller may still be sending of a refused body."""
        linger = not self._complete and self._sender_may_be_busy()
        headers = [
            (b"content-type", answer.media_type),
            (b"content-length", str(len(answer.body)).encode()),
            (b"x-request-id", self.id.encode()),
            *answer.headers,
        ]
        if linger:
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body, "more_body": linger})
        if linger:
            await self._drain()
            await self._send({"type": "http.response.body", "body": b""})

    def close(self) -> None:
        """Give the body's bytes back to the budget."""
        self._budget.used_bytes -= self._num_bytes
        self._num_bytes = 0

    def _declared_bytes(self) -> int | None:
        # The HTTP parser lets digits through and nothing else.
        declared = self.headers.get(b"content-length")
        return None if declared is None else int(declared[:18])

    def _sender_may_be_busy(self) -> bool:
        """Whether more may come than the server, which skips the rest of a declared body, should skip."""
        declared_bytes = self._declared_bytes()
        if declared_bytes is None:
            return b"transfer-encoding" in self.headers
        # A caller that waits for "100 Continue" may never send its body: no further request can follow.
        return declared_bytes > self._limits.body_bytes or b"expect" in self.headers

    async def _drain(self) -> None:
        """Closing with bytes unread would reset the connection, and the answer would be lost."""
        num_bytes = 0
        try:
            async with asyncio.timeout(self._limits.drain_timeout_s):
                while num_bytes <= self._limits.drain_bytes:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    num_bytes += len(message.get("body", b""))
        except TimeoutError:
            return
