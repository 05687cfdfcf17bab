"""Writes ``events.jsonl``, the progress that people watch, and what changes into the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ignition_client.wire import JobEvent

MIN_INTERVAL_S = 0.2


class EventWriter:
    """Appends one `JobEvent` a call. Between two events of one stage lie at least 0.2 s, unless there
    are metrics to report, so a loop may call it as often as it likes. Safe from several threads.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._seq = 0
        self._stage = self._message = ""
        self._next_s = 0.0

    def __call__(
        self,
        stage: str,
        progress: float | None = None,
        message: str = "",
        *,
        eta_s: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            stage: Short, for people: "Extracting features".
            progress: Share of the whole job that is done, 0 to 1 (clipped).
            message: More about it.
            eta_s: Seconds until the job ends, if known.
            metrics: Points for live charts; what is not finite is left out.
        """
        with self._lock:
            now_s = time.monotonic()
            if stage == self._stage and not metrics and now_s < self._next_s and progress != 1:
                return
            if (stage, message) != (self._stage, self._message):
                print(f"{datetime.now(UTC):%H:%M:%S} {stage}{': ' if message else ''}{message}", flush=True)
            self._stage, self._message, self._next_s = stage, message, now_s + MIN_INTERVAL_S
            event = JobEvent(
                seq=self._seq,
                at=datetime.now(UTC),
                stage=stage,
                progress=None if progress is None else min(1.0, max(0.0, float(progress))),
                eta_s=eta_s,
                message=message,
                metrics={k: float(v) for k, v in (metrics or {}).items() if abs(float(v)) < float("inf")},
            )
            self._seq += 1
            self._file.write(event.model_dump_json() + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()
