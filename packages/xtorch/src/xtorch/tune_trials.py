"""What goes into a search and what comes out: trials, their outcomes, their rows, the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from xtorch.space import Params

StopReason = Literal["trials", "time", "plateau", "exhausted"]


class TrialPruned(Exception):  # noqa: N818 (it is no error)
    """The trial is not worth going on with; raised by `Trial.report`, leave it to pass through."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an objective gives where a number is not enough.

    Attributes:
        value: What is optimised.
        measured: Figures by name; those that the search's `constraints` name are held to their limits.
        facts: More for the report, as JSON: epochs trained, files written.
    """

    value: float
    measured: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A set of parameters to try.

    Attributes:
        number: From 0.
        params: Values of those parameters that matter, in the space's order.
        source: "portfolio" or "search".
    """

    number: int
    params: Params
    source: Literal["portfolio", "search"]
    _report: Callable[[int, float, int], bool] = field(repr=False, compare=False)

    def report(self, value: float, *, step: int) -> None:
        """Tells how the trial stands, such as validation after an epoch.

        Args:
            value: As the objective's value, so far.
            step: Rises from 0; trials are compared at equal steps.

        Raises:
            TrialPruned: Half of the earlier trials stood better at this step.
        """
        if self._report(self.number, value, step):
            raise TrialPruned


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial that has ended.

    Attributes:
        state: "pruned" was ended early, "failed" raised an error or gave no finite value (`note` says which).
        value: Of the objective; where pruned, the last that was reported.
        feasible: Whether it is complete and meets every constraint.
        reports: ``(step, value)`` in the order in which they came.
    """

    number: int
    source: Literal["portfolio", "search"]
    params: Params
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    feasible: bool
    measured: Mapping[str, float]
    facts: Mapping[str, Any]
    reports: Sequence[tuple[int, float]]
    duration_s: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What a search found.

    Attributes:
        best: The best trial that is complete and meets every constraint; None: there is none.
        trials: All that ended, by number.
        stop_reason: "trials" (all that were asked for), "time" (the next would by the median not have ended
            in time), "plateau" (no progress for `patience` trials) or "exhausted" (everything was tried);
            None: it has not ended.
        duration_s: Of the whole search, interrupted runs included.
    """

    best: TrialRow | None
    trials: Sequence[TrialRow]
    stop_reason: StopReason | None
    duration_s: float
