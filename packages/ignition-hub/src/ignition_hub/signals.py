"""Waking those who wait for a change: long polls and live streams.

A signal says "look again", nothing more; what changed is read from the database. Waiters also look
again by themselves now and then, so changes made by another process are seen, only later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class Signals:
    """Topics are ``jobs``, ``gateway`` and ``run:<id>``. `publish` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.closed = False

    def open(self) -> None:
        """Bind to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self.closed = False

    def close(self) -> None:
        """Let every waiter go: the Hub stops."""
        self.closed = True
        self._wake(list(self._waiting))

    def publish(self, topics: Iterable[str]) -> None:
        topics = list(topics)
        if topics and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake, topics)

    def _wake(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()

    @contextlib.contextmanager
    def listen(self, topic: str) -> Iterator[asyncio.Event]:
        """An event that is set when `topic` is published; the listener clears it."""
        event = asyncio.Event()
        self._waiting.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[topic].discard(event)
            if not self._waiting[topic]:
                del self._waiting[topic]

    async def poll(
        self, topic: str, look: Callable[[], T | None], *, wait_s: float, every_s: float = 2.0
    ) -> T | None:
        """What `look` (run in a thread) answers, as soon as it answers something.

        Args:
            topic: Look again when this is published.
            look: Reads, or claims; None means "not yet".
            wait_s: Give up after so long.
            every_s: Look again after so long in any case.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        with self.listen(topic) as event:
            while True:
                event.clear()
                answer = await run_in_threadpool(look)
                left_s = deadline_s - loop.time()
                if answer is not None or left_s <= 0 or self.closed:
                    return answer
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left_s, every_s))
