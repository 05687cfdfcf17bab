"""uvicorn's HTTP connection, and a clock on what it leaves open: how long a request's head may take."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """Closes connections whose request line and headers do not arrive in time, so that nobody can hold
    many of them open by sending slowly. Bodies have their own clock (`exchange`).
    """

    head_timeout_s: float = 15.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self._start()

    def on_message_begin(self) -> None:
        self._head_timer.cancel()
        self._head_timer = self._start()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_timer.cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.cancel()
        super().connection_lost(exc)

    def _start(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
