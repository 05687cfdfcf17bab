"""The data check of time series: what was inferred, what was repaired, and what training cannot use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xtorch.data.findings import CheckReport, Findings
from xtorch.data.series import SeriesSet, read_series
from xtorch.data.series_table import read_dataset, report_table
from xtorch.errors import DataError, XTorchError
from xtorch.progress import Progress, silent

TEMPLATE = "sales-forecasting"
MIN_KNOWN = 5
"""Series with fewer known values are left out."""
_FEW_VALUES = 30
_MANY_GAPS = 0.1
_FAR = 12.0
"""Values this many times the usual distance from a series' median are outliers."""
_MAX_DRAWN = 3
_MAX_POINTS = 400
_LAYOUTS = {
    "long": "a row per series and time",
    "wide": "a column per series",
    "wide_rows": "a row per series, a column per time",
}


@dataclass(kw_only=True)
class SeriesInspection:
    """The check's report, and what training may use."""

    report: CheckReport
    findings: Findings
    series: SeriesSet | None = None
    usable: tuple[int, ...] = ()
    """Numbers of the series that training uses."""


def check_series(root: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Check a table of time series before training. Imports no torch.

    Args:
        root: The dataset's folder, with one table, or several of the same columns.
        progress: Told about progress.

    Returns:
        The fields of `wire.CheckReport`. A finding of severity ``error`` blocks training.
    """
    return inspect_series(root, progress=progress).report.to_dict()


def inspect_series(
    root: str | Path,
    *,
    roles: Mapping[str, Any] | None = None,
    gaps: str = "auto",
    horizon: int | None = None,
    progress: Progress | None = None,
) -> SeriesInspection:
    """`check_series` with the series themselves.

    Args:
        root: The dataset's folder.
        roles: As in `read_series`.
        gaps: As in `read_series`.
        horizon: Values to forecast; None: by the frequency.
        progress: Told about progress.
    """
    started = time.monotonic()
    root = Path(root)
    if not root.is_dir():
        raise DataError("There is no such folder.", value=root.name, hint="give the folder of the dataset")
    (progress or silent)("Reading tables", progress=0.0)
    findings = Findings()
    files = [path for path in root.rglob("*") if path.is_file()]
    facts: dict[str, str] = {}
    charts: Sequence[Mapping[str, Any]] = ()
    series: SeriesSet | None = None
    usable: tuple[int, ...] = ()
    try:
        table = read_dataset(root, findings)
        (progress or silent)("Reading series", progress=0.4)
        series = read_series(table, roles=roles, gaps=gaps, now_s=int(time.time()))
    except XTorchError as error:
        hint = error.hint or "upload a CSV or Parquet file with columns for date, series and value"
        findings.add("series.unreadable", "error", error.message.rstrip("."), hint, num=1)
    else:
        (progress or silent)("Checking series", progress=0.7)
        report_table(table, findings)
        _report_noticed(series, findings)
        usable = _report_values(series, findings)
        _report_length(series, usable, horizon, findings)
        facts = _facts(series)
        charts = [_history_chart(series, usable)] if usable else []
    report = CheckReport(
        item="series",
        layout="unknown" if series is None else series.layout,
        num_files=len(files),
        num_items=len(usable),
        size_bytes=sum(path.stat().st_size for path in files),
        facts=facts,
        charts=charts,
        findings=findings.sorted(),
        suits=(TEMPLATE,) if usable else (),
        duration_s=round(time.monotonic() - started, 3),
    )
    return SeriesInspection(report=report, findings=findings, series=series, usable=usable)


def refuse(inspection: SeriesInspection) -> None:
    """Turns the check's first error into an exception.

    Raises:
        DataError: There is an error.
    """
    for finding in inspection.findings.errors:
        raise DataError(f"{finding.title}.", value=finding.num, hint=finding.hint)


def _report_noticed(series: SeriesSet, findings: Findings) -> None:
    """What reading had to repair."""
    noticed = series.noticed
    findings.add(
        "series.bad_time",
        "warning",
        "{num} row{s} without a readable date",
        "They are left out. Write dates as 2024-01-31.",
        noticed.bad_times,
    )
    findings.add(
        "series.bad_number",
        "warning",
        "{num} cell{s} that should be a number and are not",
        "They count as missing.",
        noticed.bad_numbers,
    )
    findings.add(
        "series.no_id",
        "warning",
        "{num} row{s} that name no series",
        "They are left out: fill in the series' name.",
        noticed.no_id,
    )
    if noticed.ambiguous_dates:
        findings.add(
            "series.ambiguous_dates",
            "warning",
            "It is not clear whether days or months come first",
            "Dates were read as day/month/year. Write them as 2024-01-31 if that is wrong.",
            num=1,
        )
    if noticed.equal_duplicates:
        findings.add(
            "series.equal_rows",
            "info",
            "{num} row{s} are there twice",
            "One of each is used.",
            num=noticed.equal_duplicates,
        )
    if noticed.duplicate_rule == "sum":
        findings.add(
            "series.summed",
            "info",
            "{num} row{s} share their period with another row of the series",
            "They look like single sales and were added up for each period.",
            noticed.duplicates,
        )
    else:
        findings.add(
            "series.duplicate",
            "warning",
            "{num} row{s} give a second value for the same series and time",
            "Their mean is used. An hour that is there twice in autumn is the end of daylight saving.",
            noticed.duplicates,
        )
    findings.add(
        "series.future",
        "warning",
        "{num} row{s} are dated after today",
        "They are many, so they were taken as they are; a forecast begins after the last value."
        if noticed.future_kept
        else "They are left out: check the year. Rows about the future may hold covariates, but no value.",
        noticed.future_rows,
    )
    findings.add(
        "series.off_grid",
        "info",
        "{num} row{s} are not evenly spaced in time",
        "They were moved to the nearest regular time.",
        noticed.off_grid,
    )
    missing = sum(noticed.gaps.values())
    total = sum(len(values) for values in series.values)
    if noticed.zero_filled:
        findings.add(
            "series.no_sales",
            "info",
            "{num} periods without a row were taken as 0",
            "Where many periods have no row, nothing was sold in them. gaps=missing says otherwise.",
            num=missing,
        )
    else:
        findings.add(
            "series.gaps",
            "warning" if missing > _MANY_GAPS * total else "info",
            f"{missing} missing values in {{num}} series",
            "Forecasts bridge them with the value before. The setting gaps=zero takes them as 0.",
            noticed.gaps,
        )
    findings.add(
        "series.sparse",
        "warning",
        "{num} series span far more time than they have values",
        "They are left out. A mistyped year often is the reason.",
        noticed.sparse,
    )
    findings.add(
        "series.empty",
        "warning",
        "{num} series without a single value",
        "They are left out.",
        noticed.empty,
    )
    findings.add(
        "series.covariates",
        "info",
        "{num} column{s} of covariates",
        "They are shown but not used: an engine forecasts from the history of the values alone.",
        series.roles.covariates,
    )
    if noticed.unsorted:
        findings.add("series.unsorted", "info", "Rows were not in order of time", "They were sorted.", num=1)


def _report_values(series: SeriesSet, findings: Findings) -> tuple[int, ...]:
    """Findings about values; the numbers of the series that can be used."""
    known = [values[np.isfinite(values)] for values in series.values]
    short = [number for number, values in enumerate(known) if len(values) < MIN_KNOWN]
    usable = tuple(number for number in range(len(known)) if len(known[number]) >= MIN_KNOWN)

    def names(numbers: Sequence[int]) -> list[str]:
        return [series.names[number] for number in numbers]

    findings.add(
        "series.short",
        "warning",
        f"{{num}} series with fewer than {MIN_KNOWN} values",
        "They are left out; collect more values.",
        names(short),
    )
    if not usable:
        findings.add(
            "series.none",
            "error",
            "No series is long enough",
            f"A series needs at least {MIN_KNOWN} values, and a good forecast two seasons of them.",
            num=len(known),
        )
        return ()
    lows = [float(known[number].min()) for number in usable]
    constant = [number for number in usable if np.ptp(known[number]) == 0]
    findings.add(
        "series.constant",
        "info",
        "{num} series that never change",
        "They are forecast as they are and say nothing about accuracy.",
        names(constant),
    )
    if len(constant) == len(usable):
        findings.add(
            "series.all_constant",
            "error",
            "No series ever changes",
            "There is nothing to learn: check that the column to forecast is the right one.",
            num=len(usable),
        )
    negative = [number for number, low in zip(usable, lows, strict=True) if low < 0]
    if 0 < len(negative) < len(usable) or _few_negative(known, negative):
        findings.add(
            "series.negative",
            "warning",
            "{num} series with negative values",
            "They are kept, and forecasts may be negative. Returns are best kept in a column of their own.",
            names(negative),
        )
    zeros = [number for number in usable if (known[number] == 0).mean() > 0.5]
    findings.add(
        "series.intermittent",
        "info",
        "{num} series that are 0 more often than not",
        "Methods for intermittent demand (Croston, TSB) take part.",
        names(zeros),
    )
    outliers = [number for number in usable if _num_outliers(known[number])]
    findings.add(
        "series.outliers",
        "info",
        "{num} series with values far from all others",
        "They are kept: check whether they are mistakes or events.",
        names(outliers),
    )
    # Joined by mistake: the same values under two names.
    seen: dict[bytes, int] = {}
    copies = [n for n in usable if n not in constant and seen.setdefault(series.values[n].tobytes(), n) != n]
    findings.add(
        "series.copies",
        "warning",
        "{num} series equal to another one",
        "They are kept, but they count twice in all figures.",
        names(copies),
    )
    return usable


def _few_negative(known: Sequence[np.ndarray], negative: Sequence[int]) -> bool:
    share = [float((known[number] < 0).mean()) for number in negative]
    return bool(share) and float(np.mean(share)) < 0.2


def _num_outliers(known: np.ndarray) -> int:
    centre = np.median(known)
    distance = np.abs(known - centre)
    usual = max(float(np.median(distance)) * 1.4826, 0.5 * float(distance.mean()))
    return int((distance > _FAR * usual).sum()) if usual > 0 else 0


def _report_length(series: SeriesSet, usable: Sequence[int], horizon: int | None, findings: Findings) -> None:
    if not usable:
        return
    lengths = [len(series.values[number]) for number in usable]
    longest, asked = max(lengths), horizon or 1
    if longest < 2 * asked + MIN_KNOWN - 2:
        findings.add(
            "series.horizon",
            "error",
            f"The longest series has {longest} values, too few to forecast {asked}",
            "Training needs the horizon twice for testing, and history before: ask for a shorter one.",
            num=len(usable),
        )
    elif float(np.median(lengths)) < _FEW_VALUES:
        findings.add(
            "series.few_values",
            "warning",
            f"Half of the series have fewer than {_FEW_VALUES} values",
            "Accuracy and intervals are measured on little; more history makes both better.",
            num=len(usable),
        )


def _facts(series: SeriesSet) -> dict[str, str]:
    """What was inferred, for people."""
    roles, frequency = series.roles, series.frequency
    lengths = [len(values) for values in series.values]
    shortest, longest = min(lengths), max(lengths)
    sizes = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    facts = {
        "Layout": _LAYOUTS[series.layout],
        "Time column": roles.time or ("names of columns" if series.layout == "wide_rows" else "none"),
        "Series column": " + ".join(roles.ids)
        or ("the columns' names" if series.layout == "wide" else "none"),
        "Value column": roles.target or "all columns of numbers",
        "Frequency": frequency.name,
        "Seasons": ", ".join(f"{m} values" for m in frequency.seasons) or "none",
        "Horizon": f"{frequency.horizon} values, unless told otherwise",
        "Series": f"{len(series.names)}, with {sizes} values",
    }
    if frequency.unit != "numbers":
        first = min(frequency.time(float(start)) for start in series.starts)
        last = max(
            frequency.time(float(start) + length - 1)
            for start, length in zip(series.starts, lengths, strict=True)
        )
        facts["Time span"] = f"{_stamp(first)} to {_stamp(last)}"
    if series.zone:
        facts["Time zone"] = series.zone
    past = [name for name in roles.covariates if name not in series.known_future]
    if series.known_future:
        facts["Covariates known in the future"] = ", ".join(series.known_future)
    if past:
        facts["Covariates known in the past only"] = ", ".join(past)
    return facts


def _stamp(seconds: int) -> str:
    text = str(np.datetime64(seconds, "s"))
    return text.removesuffix("T00:00:00").replace("T", " ")


def _history_chart(series: SeriesSet, usable: Sequence[int]) -> dict[str, Any]:
    """The last values of a few series, as a `xtorch.tasks.report.Chart`."""
    longest = sorted(usable, key=lambda number: -len(series.values[number]))[:_MAX_DRAWN]
    size = min(_MAX_POINTS, len(series.values[longest[0]]))
    ends = [round(float(series.starts[n])) + len(series.values[n]) for n in longest]
    end = max(ends)
    lines = []
    for number, own_end in zip(longest, ends, strict=True):
        drawn = np.full(size, np.nan)
        shift = end - own_end
        values = series.values[number][-max(size - shift, 0) :] if shift < size else np.empty(0)
        if len(values):
            drawn[size - shift - len(values) : size - shift] = values
        lines.append(
            {
                "name": series.names[number],
                "y": [float(value) if np.isfinite(value) else None for value in drawn],
                "low": None,
                "high": None,
            }
        )
    fraction = float(series.starts[longest[0]]) % 1.0
    times = [series.frequency.time(end - size + step + fraction) for step in range(size)]
    is_time = series.frequency.unit != "numbers"
    return {
        "id": "history",
        "title": "The longest series",
        "kind": "lines",
        "x_title": "time" if is_time else "step",
        "y_title": series.roles.target or "value",
        "x": [float(value) for value in times],
        "series": lines,
        "marks": [],
        "x_is_time": is_time,
        "note": "",
    }
