"""Automatic tuning: good defaults first, then a tree-structured Parzen estimator, within a budget.

`tune` runs trials one after the other; `Tuner` hands them out (`ask`) and takes what came of them (`tell`),
so that they may run elsewhere and side by side. Every trial draws its parameters with a seed of its own, made
of the search's seed and the trial's number, from what was known then: a search that was killed and is run
again goes on as if nothing had happened. (Side by side, what was known depends on who came first; stopping on
time depends on the clock.)

`tune_search` says what a search is, `tune_sampler` what is tried next, `tune_stop` when it ends, `tune_log`
how it survives an interruption, `tune_trials` what goes in and comes out.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from xtorch.errors import SettingsError, TuningError
from xtorch.space import Choice, Float, Int, Params, Space
from xtorch.tune_log import TuneLog
from xtorch.tune_sampler import Draw, Sampler
from xtorch.tune_search import Search
from xtorch.tune_stop import best_of, why_stop
from xtorch.tune_trials import Outcome, StopReason, Trial, TrialPruned, TrialRow, TuneResult

__all__ = [
    "Choice",
    "Float",
    "Int",
    "Outcome",
    "Params",
    "Search",
    "Space",
    "Trial",
    "TrialPruned",
    "TrialRow",
    "TuneResult",
    "Tuner",
    "tune",
]

_MAX_FAILURES = 3
"""As many failures with no success are a defect, not bad luck."""


@dataclass(kw_only=True)
class _Running:
    """A trial that has begun and not ended."""

    number: int
    draw: Draw
    started_s: float
    reports: list[tuple[int, float]] = field(default_factory=list)


class Tuner:
    """A search whose trials run wherever the caller likes. Safe from several threads.

    Args:
        search: What is searched, and when the search ends.
        storage: The search's journal, to go on after an interruption; None: nothing is kept.
        on_trial: Called after every trial.

    Raises:
        TuningStorageError: The journal cannot be used.
    """

    def __init__(
        self,
        search: Search,
        *,
        storage: str | Path | None = None,
        on_trial: Callable[[TrialRow], None] | None = None,
    ) -> None:
        self._search = search
        self._on_trial = on_trial
        self._mutex = threading.RLock()
        self._sampler = Sampler(search)
        self._rows: dict[int, TrialRow] = {}
        self._running: dict[int, _Running] = {}
        self._interrupted: list[Mapping[str, Any]] = []
        """The journal's entries of trials to be begun again: a run that was interrupted began them."""
        self._num_asked = 0
        self._spent_s = 0.0
        self.stop_reason: StopReason | None = None
        """Set once `ask` gives no more trials."""
        self._log: TuneLog | None = None
        if storage is not None:
            self._log = TuneLog(Path(storage), search.digest)
            self._replay(self._log.entries)
        self._started_s = time.monotonic()

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the journal free."""
        if self._log is not None:
            self._log.close()

    def ask(self) -> Trial | None:
        """The next trial; None: the search has ended, and `stop_reason` says why."""
        with self._mutex:
            self.stop_reason = why_stop(
                self._search,
                self._sorted_rows(),
                num_asked=self._num_asked,
                num_interrupted=len(self._interrupted),
                elapsed_s=self.elapsed_s,
            )
            if self.stop_reason is not None:
                return None
            if self._interrupted:
                entry = self._interrupted.pop(0)
                number, draw = entry["number"], self._sampler.given(entry["params"], entry["source"])
            else:
                number = self._num_asked
                drawn = self._sampler.draw(number)
                if drawn is None:
                    self.stop_reason = "exhausted"
                    return None
                draw = drawn
                if self._log is not None:
                    self._log.append(kind="asked", number=number, source=draw.source, params=draw.params)
                self._num_asked += 1
            self._running[number] = _Running(number=number, draw=draw, started_s=time.monotonic())
            return Trial(number=number, params=draw.params, source=draw.source, _report=self.report)

    def report(self, number: int, value: float, step: int) -> bool:
        """Takes a trial's intermediate value.

        Returns:
            Whether the trial is not worth going on with; then `prune` it.

        Raises:
            SettingsError: The trial is not running, or the step does not rise.
        """
        with self._mutex:
            running = self._get_running(number)
            if step < 0 or (running.reports and step <= running.reports[-1][0]):
                raise SettingsError("Steps rise from 0.", value=step)
            running.reports.append((int(step), float(value)))
            if not math.isfinite(value):
                return False  # the objective's own value will tell
            return running.draw.report(float(value), int(step))

    def tell(self, number: int, outcome: float | Outcome) -> TrialRow:
        """Ends a trial that gave a value.

        Raises:
            SettingsError: The trial is not running, a constrained figure was not measured, or facts are no
                JSON.
        """
        given = outcome if isinstance(outcome, Outcome) else Outcome(value=float(outcome))
        try:
            json.dumps(dict(given.facts), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"The objective's facts are no JSON: {error}", value=list(given.facts)
            ) from error
        limits = self._search.constraints
        for name in limits:
            if name not in given.measured:
                raise SettingsError(
                    f"The objective did not measure {name!r}, which is constrained.",
                    value=sorted(given.measured),
                )
        figures = [given.value, *(given.measured[name] for name in limits)]
        if not all(math.isfinite(figure) for figure in figures):
            return self.fail(number, f"the objective gave {', '.join(f'{figure:g}' for figure in figures)}")
        return self._end(
            number,
            state="complete",
            value=float(given.value),
            feasible=all(given.measured[name] <= limit for name, limit in limits.items()),
            measured={name: float(value) for name, value in given.measured.items() if math.isfinite(value)},
            facts=dict(given.facts),
        )

    def prune(self, number: int) -> TrialRow:
        """Ends a trial early.

        Raises:
            SettingsError: The trial is not running.
        """
        finite = [value for _, value in self._get_running(number).reports if math.isfinite(value)]
        return self._end(number, state="pruned", value=finite[-1] if finite else None)

    def fail(self, number: int, note: str) -> TrialRow:
        """Ends a trial that gave no value.

        Args:
            note: Why, for people.

        Raises:
            SettingsError: The trial is not running.
        """
        return self._end(number, state="failed", note=note)

    def result(self) -> TuneResult:
        """What was found so far."""
        with self._mutex:
            rows = self._sorted_rows()
            return TuneResult(
                best=best_of(self._search, rows),
                trials=rows,
                stop_reason=self.stop_reason,
                duration_s=self.elapsed_s,
            )

    @property
    def elapsed_s(self) -> float:
        """Seconds that the search has taken, interrupted runs included."""
        return self._spent_s + time.monotonic() - self._started_s

    def _sorted_rows(self) -> list[TrialRow]:
        return [self._rows[number] for number in sorted(self._rows)]

    def _get_running(self, number: int) -> _Running:
        try:
            return self._running[number]
        except KeyError:
            raise SettingsError(f"Trial {number} is not running.", value=number) from None

    def _end(
        self,
        number: int,
        *,
        state: Literal["complete", "pruned", "failed"],
        value: float | None = None,
        feasible: bool = False,
        measured: Mapping[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> TrialRow:
        with self._mutex:
            running = self._get_running(number)
            row = TrialRow(
                number=number,
                source=running.draw.source,
                params=running.draw.params,
                state=state,
                value=value,
                feasible=feasible,
                measured=measured or {},
                facts=facts or {},
                reports=[report for report in running.reports if math.isfinite(report[1])],
                duration_s=round(time.monotonic() - running.started_s, 3),
                note=note,
            )
            if self._log is not None:
                self._log.append(kind="told", elapsed_s=round(self.elapsed_s, 3), row=asdict(row))
            del self._running[number]
            self._sampler.learn(running.draw, row)
            self._rows[number] = row
            if self._on_trial is not None:
                self._on_trial(row)
            return row

    def _replay(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Brings the search to where the journal ends."""
        asked: dict[int, Mapping[str, Any]] = {}
        for entry in entries:
            if entry["kind"] == "asked":
                asked[entry["number"]] = entry
                self._num_asked = max(self._num_asked, entry["number"] + 1)
            else:
                fields = dict(entry["row"])
                fields["reports"] = [(step, value) for step, value in fields["reports"]]
                row = TrialRow(**fields)
                self._rows[row.number] = row
                self._spent_s = max(self._spent_s, entry["elapsed_s"])
                del asked[row.number]
        for row in self._sorted_rows():
            draw = self._sampler.given(row.params, row.source)
            for step, value in row.reports:
                draw.report(value, step)
            self._sampler.learn(draw, row)
        self._interrupted = [asked[number] for number in sorted(asked)]


def tune(
    objective: Callable[[Trial], float | Outcome],
    search: Search,
    *,
    storage: str | Path | None = None,
    on_trial: Callable[[TrialRow], None] | None = None,
) -> TuneResult:
    """Looks for the parameters with the best objective, one trial after the other.

    Args:
        objective: Gives a trial's value, or an `Outcome`. It may `report`, and lets `TrialPruned` pass. Any
            other exception is a failed trial; the search goes on, unless nothing but failures came first.
        search: What is searched, and when the search ends.
        storage: The search's journal, to go on after an interruption; None: nothing is kept.
        on_trial: Called after every trial.

    Returns:
        All trials, the best of them, and why the search ended.

    Raises:
        TuningStorageError: The journal cannot be used.
        TuningError: The first trials all failed.
    """
    with Tuner(search, storage=storage, on_trial=on_trial) as tuner:
        error: Exception | None = None
        while (trial := tuner.ask()) is not None:
            try:
                outcome = objective(trial)
            except TrialPruned:
                tuner.prune(trial.number)
            except Exception as caught:
                error = caught
                tuner.fail(trial.number, f"{type(caught).__name__}: {caught}")
            else:
                tuner.tell(trial.number, outcome)
            _refuse_failures(tuner.result().trials, error)
        result = tuner.result()
        _refuse_failures(result.trials, error, final=True)
        return result


def _refuse_failures(rows: Sequence[TrialRow], error: Exception | None, *, final: bool = False) -> None:
    """Raises TuningError where nothing but failures came."""
    if not rows or any(row.state != "failed" for row in rows):
        return
    if final or len(rows) >= _MAX_FAILURES:
        raise TuningError(
            f"All of the first {len(rows)} trials failed; the last: {rows[-1].note}.",
            value=dict(rows[-1].params),
            hint="it is the objective that fails, not its parameters",
        ) from error
