"""How long-running functions report progress: a callback with the fields of a job event."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol


class Progress(Protocol):
    """Called now and then with what is being done; the names are those of `wire.JobEvent`."""

    def __call__(
        self,
        stage: str,
        /,
        *,
        progress: float | None = None,
        eta_s: float | None = None,
        message: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Report.

        Args:
            stage: short, for people: "Extracting features".
            progress: share of the whole job that is done, 0..1.
            eta_s: estimated seconds until the whole job is done.
            message: a sentence of detail.
            metrics: points for live charts, e.g. ``{"epoch": 3, "loss": 0.21}``.
        """


def silent(
    stage: str,
    *,
    progress: float | None = None,
    eta_s: float | None = None,
    message: str = "",
    metrics: Mapping[str, float] | None = None,
) -> None:
    """A `Progress` that drops everything."""


class Stages:
    """Turns a fraction of a stage into a share of the job and an estimate of the time left.

    Args:
        progress: where reports go.
        weights: title of each stage -> expected seconds; they only need to be right to each other.
        min_interval_s: reports within a stage closer than this are dropped, except the last.
    """

    def __init__(
        self, progress: Progress, weights: Mapping[str, float], *, min_interval_s: float = 0.25
    ) -> None:
        self._progress = progress
        total = sum(weights.values())
        self._share = {title: weight / total for title, weight in weights.items()}
        self._start = time.monotonic()
        self._last_report = 0.0
        self._min_interval_s = min_interval_s
        self.timings_s: dict[str, float] = {}
        self._stage: str | None = None
        self._stage_start = self._start

    def report(
        self,
        stage: str,
        fraction: float,
        *,
        message: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """`fraction` (0..1) of `stage` is done; stages come in the order of `weights`."""
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._stage_start = stage, now
        elif fraction < 1 and metrics is None and now - self._last_report < self._min_interval_s:
            return
        self._last_report = now
        before = 0.0
        for title, share in self._share.items():
            if title == stage:
                break
            before += share
        done = min(before + self._share[stage] * fraction, 1.0)
        elapsed_s = now - self._start
        # Early on the estimate would be noise.
        eta_s = elapsed_s * (1 - done) / done if done > 0.03 and elapsed_s > 0.5 else None
        self._progress(
            stage,
            progress=round(done, 4),
            eta_s=None if eta_s is None else round(eta_s, 1),
            message=message,
            metrics=metrics,
        )

    def within(self, stage: str) -> Progress:
        """A `Progress` for a function that knows nothing of stages: its share becomes one of `stage`."""

        def report(
            _: str,
            /,
            *,
            progress: float | None = None,
            eta_s: float | None = None,  # noqa: ARG001
            message: str = "",
            metrics: Mapping[str, float] | None = None,
        ) -> None:
            self.report(stage, progress or 0.0, message=message, metrics=metrics)

        return report

    def counter(self, stage: str, things: str) -> Callable[[int, int], None]:
        """Reports (done, total) as a share of `stage`: "12 of 340 images"."""

        def report(done: int, total: int) -> None:
            self.report(stage, done / total if total else 1.0, message=f"{done} of {total} {things}")

        return report

    def finish(self) -> None:
        """All is done."""
        self.report(list(self._share)[-1], 1.0)
        self.close()

    def close(self) -> None:
        """End the stage that is running, for `timings_s`."""
        if self._stage is not None:
            spent_s = time.monotonic() - self._stage_start
            self.timings_s[self._stage] = round(self.timings_s.get(self._stage, 0.0) + spent_s, 3)
            self._stage = None
