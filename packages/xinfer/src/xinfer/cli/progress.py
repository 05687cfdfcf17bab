"""Progress on stderr: one line that is written over on a terminal, a line per step elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Self, TextIO

from xinfer.cli.output import duration

REFRESH_S = 1.0
MIN_FRACTION = 0.02
"""Before that there is nothing to estimate from."""


class Progress:
    """Shows how far a job is: stage, per cent, and how long it will still take.

    A context manager; calling it as `EngineBuilder.on_progress` does moves it on. On a terminal the line
    goes on counting between calls.

    Args:
        stream: Where to; default: stderr.
        clock: Seconds; for tests.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._started = clock()
        self._state: tuple[str, float, str, float] | None = None
        self._width = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None

    def __call__(self, stage: str, fraction: float, message: str = "") -> None:
        """The job is at `stage`, and `fraction` of it is done."""
        with self._lock:
            self._state = (stage, min(1.0, max(0.0, fraction)), message, self._clock())
            self._show()
        if self._terminal and self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def left_s(self) -> float | None:
        """Seconds that the job will still take, None where nobody can tell."""
        if self._state is None:
            return None
        _, fraction, _, moved = self._state
        if fraction < MIN_FRACTION:
            return None
        at_move_s = (moved - self._started) * (1 - fraction) / fraction
        return max(0.0, at_move_s - (self._clock() - moved))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._lock:
            if self._terminal and self._width:
                self._write("\r" + " " * self._width + "\r")

    def _tick(self) -> None:
        while not self._ended.wait(REFRESH_S):
            with self._lock:
                self._show()

    def _show(self) -> None:
        if self._state is None:
            return
        stage, fraction, message, _ = self._state
        left_s = self.left_s()
        parts = [f"{fraction:4.0%} {stage}"]
        if message:
            parts.append(message)
        if left_s is not None and fraction < 1:
            parts.append(f"about {duration(left_s)} left")
        text = " · ".join(parts) if self._terminal else ", ".join(parts)
        if not self._terminal:
            self._write(text + "\n")
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + text + " " * max(0, self._width - len(text)))
        self._width = len(text)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
