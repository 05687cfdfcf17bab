"""A hyper-parameter search in a report: what every recipe that tunes shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtorch.tasks.report import Chart, Series, Table
from xtorch.tune import TrialRow, TuneResult

_STOPPED = {
    "trials": "all trials were done",
    "time": "the next trial would not have ended in time",
    "plateau": "there was no more progress",
    "exhausted": "everything was tried",
}


def tuning_facts(result: TuneResult) -> dict[str, Any]:
    """`Report.tuning`."""
    return {
        "num_trials": len(result.trials),
        "stop_reason": result.stop_reason,
        "best": {} if result.best is None else dict(result.best.params),
        "duration_s": round(result.duration_s, 3),
    }


def trials_table(result: TuneResult, metric: str, *, id: str = "trials", title: str = "Search") -> Table:
    """All trials, in the order in which they were begun."""
    names = list(dict.fromkeys(name for row in result.trials for name in row.params))
    measured = list(dict.fromkeys(name for row in result.trials for name in row.measured))
    reason = _STOPPED.get(result.stop_reason or "", "it was interrupted")
    return Table(
        id=id,
        title=title,
        columns=["#", "from", *names, metric, *measured, "seconds", "state"],
        rows=[
            [
                row.number,
                "defaults" if row.source == "portfolio" else "search",
                *(_cell(row.params, name) for name in names),
                row.value,
                *(row.measured.get(name) for name in measured),
                row.duration_s,
                _state(row, result),
            ]
            for row in result.trials
        ],
        note=f"{len(result.trials)} trials in {result.duration_s:.0f} s; the search ended because {reason}.",
    )


def progress_chart(result: TuneResult, metric: str, *, lower_is_better: bool, id: str = "search") -> Chart:
    """Each trial's value and the best so far."""
    sign = -1.0 if lower_is_better else 1.0
    best: float | None = None
    so_far: list[float | None] = []
    for row in result.trials:
        if row.feasible and row.value is not None and (best is None or sign * row.value > sign * best):
            best = row.value
        so_far.append(best)
    return Chart(
        id=id,
        title="Search for the best settings",
        kind="lines",
        x_title="trial",
        y_title=metric,
        x=[float(row.number) for row in result.trials],
        series=[
            Series(name="trial", y=[row.value for row in result.trials]),
            Series(name="best so far", y=so_far),
        ],
    )


def _cell(params: Mapping[str, Any], name: str) -> str | int | float | None:
    value = params.get(name)
    return str(value) if isinstance(value, bool) else value


def _state(row: TrialRow, result: TuneResult) -> str:
    if result.best is not None and row.number == result.best.number:
        return "best"
    if row.state == "complete":
        return "complete" if row.feasible else "breaks a limit"
    return "ended early" if row.state == "pruned" else f"failed: {row.note}"
