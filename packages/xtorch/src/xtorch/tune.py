"""Automatic tuning: good defaults first, then a tree-structured Parzen estimator, within a budget.

`tune` runs trials one after the other; `Tuner` hands them out (`ask`) and takes what came of them (`tell`),
so that they may run elsewhere and side by side. Every trial draws its parameters with a seed of its own, made
of the search's seed and the trial's number, from what was known then: a search that was killed and is run
again goes on as if nothing had happened. (Side by side, what was known depends on who came first; stopping on
time depends on the clock.)

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), section 4, in its
multivariate form with groups of conditional parameters, by Optuna; trials are ended early by the median rule
of Golovin et al., "Google Vizier" (KDD 2017), section 3.1.2.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna

from xtorch.errors import SettingsError, TuningError
from xtorch.space import (
    Choice,
    Float,
    Int,
    Params,
    Scalar,
    Space,
    check_params,
    check_space,
    describe,
    suggest,
)
from xtorch.tune_log import TuneLog
from xtorch.tune_trials import Outcome, StopReason, Trial, TrialPruned, TrialRow, TuneResult

__all__ = [
    "Choice",
    "Float",
    "Int",
    "Outcome",
    "Params",
    "Space",
    "Trial",
    "TrialPruned",
    "TrialRow",
    "TuneResult",
    "Tuner",
    "tune",
]

Direction = Literal["maximize", "minimize"]

_RANDOM_TRIALS = 8
"""Where there is no portfolio, as many trials are drawn at random before the model takes over."""
_ATTEMPTS = 30
"""Draws of parameters before the space counts as exhausted, where all were tried before."""
_UNPRUNED_TRIALS = 4
"""Fewer complete trials than this are no measure to end others early by."""
_MAX_FAILURES = 3
"""As many failures with no success are a defect, not bad luck."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Tuner:
    """A search whose trials run wherever the caller likes. Safe from several threads.

    Args:
        space: What may be chosen.
        portfolio: Settings that have been good elsewhere, the best first; they are tried first.
        budget_s: Seconds for the whole search, interrupted runs included. The first trial is always begun.
        max_trials: Most trials.
        patience: Ends the search after this many trials without progress, counted from the portfolio's end;
            None: never.
        min_delta: Smallest difference that is progress.
        direction: Whether more or less is better.
        seed: Decides every draw.
        storage: The search's journal, to go on after an interruption; None: nothing is kept.
        identity: Says what the objective depends on besides its parameters (the data's digest, say); a
            journal with another one is refused.
        constraints: Name of a measured figure -> its upper limit.
        warmup_steps: Trials are not ended early before this step.
        on_trial: Called after every trial.

    Raises:
        SettingsError: The space or an argument makes no sense.
        TuningStorageError: The journal cannot be used.
    """

    def __init__(
        self,
        *,
        space: Space,
        portfolio: Sequence[Params] = (),
        budget_s: float = math.inf,
        max_trials: int = 50,
        patience: int | None = None,
        min_delta: float = 0.0,
        direction: Direction = "maximize",
        seed: int = 0,
        storage: str | Path | None = None,
        identity: str = "",
        constraints: Mapping[str, float] | None = None,
        warmup_steps: int = 0,
        on_trial: Callable[[TrialRow], None] | None = None,
    ) -> None:
        check_space(space)
        if direction not in ("maximize", "minimize"):
            raise SettingsError("direction must be maximize or minimize.", value=direction)
        if max_trials < 1 or not budget_s > 0 or (patience is not None and patience < 1) or min_delta < 0:
            raise SettingsError(
                "max_trials, budget_s and patience must be positive, min_delta not negative.",
                value={
                    "max_trials": max_trials,
                    "budget_s": budget_s,
                    "patience": patience,
                    "min_delta": min_delta,
                },
            )
        self._constraints = dict(constraints or {})
        if not all(math.isfinite(limit) for limit in self._constraints.values()):
            raise SettingsError("Limits must be finite.", value=self._constraints)
        self._space = dict(space)
        self._portfolio = [check_params(space, params) for params in portfolio]
        self._budget_s, self._max_trials = budget_s, max_trials
        self._patience, self._min_delta = patience, min_delta
        self._sign = 1.0 if direction == "maximize" else -1.0
        self._seed = seed
        self._on_trial = on_trial
        self._mutex = threading.RLock()
        self._study = optuna.create_study(
            direction=direction,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=warmup_steps
            ),
        )
        self._rows: dict[int, TrialRow] = {}
        self._asked: dict[int, _Asked] = {}
        """Begun and not ended."""
        self._interrupted: list[_Asked] = []
        """Begun by a run that was interrupted, to be begun again."""
        self._tried: set[str] = set()
        self._num_asked = 0
        self._spent_s = 0.0
        self.stop_reason: StopReason | None = None
        """Set once `ask` gives no more trials."""
        self._log: TuneLog | None = None
        if storage is not None:
            searched = [
                describe(space), self._portfolio, direction, seed, self._constraints, warmup_steps, identity
            ]  # fmt: skip
            self._log = TuneLog(Path(storage), _digest(searched))
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
            self.stop_reason = self._why_stop()
            if self.stop_reason is not None:
                return None
            if self._interrupted:
                begun = self._interrupted.pop(0)
                begun.optuna = self._fixed(begun.params)
            else:
                drawn = self._next()
                if drawn is None:
                    self.stop_reason = "exhausted"
                    return None
                begun = drawn
                if self._log is not None:
                    self._log.append(
                        kind="asked", number=begun.number, source=begun.source, params=begun.params
                    )
                self._tried.add(_digest(begun.params))
                self._num_asked += 1
            begun.started_s = time.monotonic()
            self._asked[begun.number] = begun
            return Trial(number=begun.number, params=begun.params, source=begun.source, _report=self.report)

    def report(self, number: int, value: float, step: int) -> bool:
        """Takes a trial's intermediate value.

        Returns:
            Whether the trial is not worth going on with; then `prune` it.

        Raises:
            SettingsError: The trial is not running, or the step does not rise.
        """
        with self._mutex:
            begun = self._begun(number)
            assert begun.optuna is not None
            if step < 0 or (begun.reports and step <= begun.reports[-1][0]):
                raise SettingsError("Steps rise from 0.", value=step)
            begun.reports.append((int(step), float(value)))
            if not math.isfinite(value):
                return False  # the objective's own value will tell
            begun.optuna.report(float(value), int(step))
            return begun.optuna.should_prune()

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
        for name in self._constraints:
            if name not in given.measured:
                raise SettingsError(
                    f"The objective did not measure {name!r}, which is constrained.",
                    value=sorted(given.measured),
                )
        figures = [given.value, *(given.measured[name] for name in self._constraints)]
        if not all(math.isfinite(figure) for figure in figures):
            return self.fail(number, f"the objective gave {', '.join(f'{figure:g}' for figure in figures)}")
        return self._end(
            number,
            state="complete",
            value=float(given.value),
            feasible=all(given.measured[name] <= limit for name, limit in self._constraints.items()),
            measured={name: float(value) for name, value in given.measured.items() if math.isfinite(value)},
            facts=dict(given.facts),
        )

    def prune(self, number: int) -> TrialRow:
        """Ends a trial early.

        Raises:
            SettingsError: The trial is not running.
        """
        finite = [value for _, value in self._begun(number).reports if math.isfinite(value)]
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
            rows = [self._rows[number] for number in sorted(self._rows)]
            return TuneResult(
                best=self._best(rows),
                trials=rows,
                stop_reason=self.stop_reason,
                duration_s=self.elapsed_s,
            )

    @property
    def elapsed_s(self) -> float:
        """Seconds that the search has taken, interrupted runs included."""
        return self._spent_s + time.monotonic() - self._started_s

    # ------------------------------------------------------------------------------------- when to stop

    def _why_stop(self) -> StopReason | None:
        elapsed_s = self.elapsed_s
        durations_s = [row.duration_s for row in self._rows.values() if row.state == "complete"]
        expected_s = statistics.median(durations_s) if durations_s else 0.0
        if self._num_asked and elapsed_s + expected_s > self._budget_s and (self._rows or self._asked):
            return "time"
        if self._interrupted:
            return None
        if self._num_asked >= self._max_trials:
            return "trials"
        if self._patience is not None and self._since_progress() >= self._patience:
            return "plateau"
        return None

    def _since_progress(self) -> int:
        """Trials since the last progress, from the portfolio's end on."""
        best: float | None = None
        since = 0
        for number in sorted(self._rows):
            row = self._rows[number]
            if row.feasible and row.value is not None:
                value = self._sign * row.value
                if best is None or value > best + self._min_delta:
                    best, since = value, 0
                    continue
            if number >= len(self._portfolio):
                since += 1
        return since

    def _best(self, rows: Sequence[TrialRow]) -> TrialRow | None:
        found = [row for row in rows if row.feasible and row.value is not None]
        return max(found, key=lambda row: self._sign * (row.value or 0.0), default=None)

    # ------------------------------------------------------------------------------------- what to try

    def _next(self) -> _Asked | None:
        """Parameters that were not tried before, None: none were found."""
        number = self._num_asked
        if number < len(self._portfolio):
            params = self._portfolio[number]
            return _Asked(number=number, params=params, source="portfolio", optuna=self._fixed(params))
        for attempt in range(_ATTEMPTS):
            # The model likes what it knows; the later attempts are drawn at random.
            self._study.sampler = self._sampler(number, attempt, random=attempt >= _ATTEMPTS // 2)
            drawn = self._study.ask()
            params = suggest(self._space, drawn)
            if _digest(params) not in self._tried:
                return _Asked(number=number, params=params, source="search", optuna=drawn)
            self._study.tell(drawn, state=optuna.trial.TrialState.FAIL)
        return None

    def _sampler(self, number: int, attempt: int, *, random: bool) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, number, attempt]).generate_state(1)[0])
        if random:
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=len(self._portfolio) or _RANDOM_TRIALS,
                multivariate=True,
                group=True,
                constant_liar=True,
            )

    def _fixed(self, params: Params) -> optuna.Trial:
        self._study.enqueue_trial(dict(params))
        trial = self._study.ask()
        suggest(self._space, trial)
        return trial

    # ------------------------------------------------------------------------------------- bookkeeping

    def _begun(self, number: int) -> _Asked:
        try:
            return self._asked[number]
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
            begun = self._begun(number)
            row = TrialRow(
                number=number,
                source=begun.source,
                params=begun.params,
                state=state,
                value=value,
                feasible=feasible,
                measured=measured or {},
                facts=facts or {},
                reports=[report for report in begun.reports if math.isfinite(report[1])],
                duration_s=round(time.monotonic() - begun.started_s, 3),
                note=note,
            )
            if self._log is not None:
                self._log.append(kind="told", elapsed_s=round(self.elapsed_s, 3), row=asdict(row))
            del self._asked[number]
            assert begun.optuna is not None
            self._teach(begun.optuna, row)
            self._rows[number] = row
            if self._on_trial is not None:
                self._on_trial(row)
            return row

    def _teach(self, trial: optuna.Trial, row: TrialRow) -> None:
        """Tells the model. What failed counts as worse than everything else, or it would be tried again."""
        for name, limit in self._constraints.items():
            if row.state == "complete":
                scale = abs(limit) or 1.0
                trial.set_constraint(name, (row.measured[name] - limit) / scale)
        if row.state == "complete":
            self._study.tell(trial, row.value)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def _replay(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Brings the search to where the journal ends."""
        begun: dict[int, _Asked] = {}
        for entry in entries:
            if entry["kind"] == "asked":
                asked = _Asked(number=entry["number"], params=entry["params"], source=entry["source"])
                begun[asked.number] = asked
                self._tried.add(_digest(asked.params))
                self._num_asked = max(self._num_asked, asked.number + 1)
            else:
                fields = dict(entry["row"])
                fields["reports"] = [(step, value) for step, value in fields["reports"]]
                row = TrialRow(**fields)
                self._rows[row.number] = row
                self._spent_s = max(self._spent_s, entry["elapsed_s"])
                begun.pop(row.number)
        for number in sorted(self._rows):
            row = self._rows[number]
            trial = self._fixed(row.params)
            for step, value in row.reports:
                trial.report(value, step)
            self._teach(trial, row)
        self._interrupted = [begun[number] for number in sorted(begun)]


@dataclass(kw_only=True)
class _Asked:
    """A trial that has begun."""

    number: int
    params: dict[str, Scalar]
    source: Literal["portfolio", "search"]
    optuna: optuna.Trial | None = None
    started_s: float = 0.0
    reports: list[tuple[int, float]] = field(default_factory=list)


def tune(
    objective: Callable[[Trial], float | Outcome],
    *,
    space: Space,
    portfolio: Sequence[Params] = (),
    budget_s: float = math.inf,
    max_trials: int = 50,
    patience: int | None = None,
    min_delta: float = 0.0,
    direction: Direction = "maximize",
    seed: int = 0,
    storage: str | Path | None = None,
    identity: str = "",
    constraints: Mapping[str, float] | None = None,
    warmup_steps: int = 0,
    on_trial: Callable[[TrialRow], None] | None = None,
) -> TuneResult:
    """Looks for the parameters with the best objective, one trial after the other.

    Args:
        objective: Gives a trial's value, or an `Outcome`. It may `report`, and lets `TrialPruned` pass. Any
            other exception is a failed trial; the search goes on, unless nothing but failures came first.
        space, portfolio, budget_s, max_trials, patience, min_delta, direction, seed, storage, identity,
            constraints, warmup_steps, on_trial: See `Tuner`.

    Returns:
        All trials, the best of them, and why the search ended.

    Raises:
        SettingsError: The space or an argument makes no sense.
        TuningStorageError: The journal cannot be used.
        TuningError: The first trials all failed.
    """
    with Tuner(
        space=space,
        portfolio=portfolio,
        budget_s=budget_s,
        max_trials=max_trials,
        patience=patience,
        min_delta=min_delta,
        direction=direction,
        seed=seed,
        storage=storage,
        identity=identity,
        constraints=constraints,
        warmup_steps=warmup_steps,
        on_trial=on_trial,
    ) as tuner:
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


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
