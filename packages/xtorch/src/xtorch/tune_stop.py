"""What the trials so far say: which is the best, and whether to go on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from xtorch.tune_search import Search
from xtorch.tune_trials import StopReason, TrialRow


def best_of(search: Search, rows: Sequence[TrialRow]) -> TrialRow | None:
    """The best complete trial that meets every constraint, the first of equals."""
    found = [row for row in rows if row.feasible and row.value is not None]
    return max(found, key=lambda row: search.sign * (row.value or 0.0), default=None)


def why_stop(
    search: Search, rows: Sequence[TrialRow], *, num_asked: int, num_interrupted: int, elapsed_s: float
) -> StopReason | None:
    """Why no more trial begins; None: the next one does.

    Args:
        rows: Of the trials that ended, by number.
        num_asked: Trials that were ever begun.
        num_interrupted: Those of them that wait to be begun again.
        elapsed_s: Since the search began, interrupted runs included.
    """
    durations_s = [row.duration_s for row in rows if row.state == "complete"]
    expected_s = statistics.median(durations_s) if durations_s else 0.0
    if num_asked > num_interrupted and elapsed_s + expected_s > search.budget_s:
        return "time"
    if num_interrupted:
        return None
    if num_asked >= search.max_trials:
        return "trials"
    if search.patience is not None and _since_progress(search, rows) >= search.patience:
        return "plateau"
    return None


def _since_progress(search: Search, rows: Sequence[TrialRow]) -> int:
    """Trials since the last progress, from the portfolio's end on."""
    best: float | None = None
    since = 0
    for row in rows:
        if row.feasible and row.value is not None:
            value = search.sign * row.value
            if best is None or value > best + search.min_delta:
                best, since = value, 0
                continue
        if row.number >= len(search.portfolio):
            since += 1
    return since
