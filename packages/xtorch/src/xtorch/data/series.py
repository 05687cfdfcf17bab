"""Time series out of tables as people have them: which column is what, on which grid, with which gaps.

Layouts: ``long`` (a row per series and time), ``wide`` (a column per series), ``wide_rows`` (a row per
series, a column per time). Nothing is asked for that the data can tell; `Roles` overrules.

Shapes: R rows of a table, S values of a series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from xtorch.data.series_roles import Columns, Roles, times_of_columns
from xtorch.data.tables import Table
from xtorch.data.timestamps import Frequency, Times, infer_frequency
from xtorch.errors import ColumnsError, DataError

Layout = Literal["long", "wide", "wide_rows"]

_MAX_GRID_FACTOR = 50
"""A series whose grid is this many times larger than its rows (a mistyped year) is left out."""


@dataclass(kw_only=True)
class Noticed:
    """What was repaired or left out, as ``file:row`` or names of series."""

    bad_times: list[str] = field(default_factory=list)
    bad_numbers: list[str] = field(default_factory=list)
    no_id: list[str] = field(default_factory=list)
    equal_duplicates: int = 0
    duplicates: list[str] = field(default_factory=list)
    duplicate_rule: str = ""
    future_rows: list[str] = field(default_factory=list)
    future_kept: bool = False
    off_grid: list[str] = field(default_factory=list)
    gaps: dict[str, int] = field(default_factory=dict)
    zero_filled: bool = False
    sparse: list[str] = field(default_factory=list)
    ambiguous_dates: bool = False
    empty: list[str] = field(default_factory=list)
    unsorted: bool = False


@dataclass(frozen=True, kw_only=True)
class SeriesSet:
    """Series on one regular grid each.

    Attributes:
        names: Of the series.
        values: float64 [S] each, oldest first; NaN where a value is missing; first and last are known.
        starts: The place of each first value, for `frequency.time`.
        covariates: Name -> for each series float64, from its start on; longer than its values where the
            future is known.
        known_future: Covariates that are given after the last value.
        zone: What was done about time zones.
    """

    layout: Layout
    roles: Roles
    names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    starts: np.ndarray
    frequency: Frequency
    covariates: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    known_future: tuple[str, ...] = ()
    zone: str = ""
    noticed: Noticed = field(default_factory=Noticed)


def read_series(
    table: Table, *, roles: Mapping[str, Any] | None = None, gaps: str = "auto", now_s: int | None = None
) -> SeriesSet:
    """The series of a table.

    Args:
        table: From `xtorch.data.tables.read_table`.
        roles: Overrules: ``time``, ``ids`` (list), ``target``, by columns' names.
        gaps: "missing": periods without a row are not known; "zero": nothing was sold then; "auto": zero
            where the values are never negative, never 0, and more than a fifth of the periods have no row.
        now_s: POSIX seconds of today, for rows that are dated later; None: they are taken as they are.

    Raises:
        ColumnsError: There is no time or no target, or a role names no column.
        DataError: There is no value, or no regular grid.
    """
    given = dict(roles or {})
    for name in (given.get("time"), given.get("target"), *(given.get("ids") or ())):
        if name is not None and name not in table.columns:
            raise ColumnsError(
                f"There is no column {name!r}.",
                value=name,
                hint=f"columns: {', '.join(list(table.columns)[:20])}",
            )
    if not table.num_rows:
        raise DataError("The table has no rows.", value=table.name, hint="upload the file again")
    reader = _Reader(table, gaps=gaps, now_s=now_s)
    if not given and (times := times_of_columns(list(table.columns))) is not None:
        return reader.wide_rows(times)
    return reader.by_rows(given)


class _Reader:
    """One table being read."""

    def __init__(self, table: Table, *, gaps: str, now_s: int | None) -> None:
        self.table, self.gaps, self.now_s = table, gaps, now_s
        self.noticed = Noticed()
        self.columns = Columns(table)

    # ------------------------------------------------------------------------------------------- layouts

    def by_rows(self, given: Mapping[str, Any]) -> SeriesSet:
        """A table with times in rows."""
        roles, times, columns = self.columns.find_roles(given)
        if columns:
            return self.wide(roles, times, columns)
        assert roles.target is not None
        names, series_R = self.name_series(roles.ids)
        return self.assemble("long", roles, names, series_R, times, *self.columns.numbers(roles.target))

    def name_series(self, ids: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
        """Names, and the series of each row; -1 where an id is empty."""
        if not ids:
            return ("series",), np.zeros(self.table.num_rows, np.int64)
        series_R = self.columns.codes(ids)
        _, first = np.unique(series_R, return_index=True)
        cells = [self.table.columns[name] for name in ids]
        names = tuple(" / ".join((column[row] or "").strip() for column in cells) for row in first.tolist())
        nameless = np.array([not name.replace("/", "").strip() for name in names])
        empty_R = nameless[series_R]
        self.noticed.no_id = [self.table.place(int(row)) for row in np.flatnonzero(empty_R)]
        series_R = np.where(empty_R, -1, series_R)
        return names, series_R

    def wide(self, roles: Roles, times: Times, columns: Sequence[str]) -> SeriesSet:
        """A column per series: as if they stood one below the other."""
        rows = self.table.num_rows
        series_R = np.repeat(np.arange(len(columns)), rows)
        parsed = [self.columns.numbers(name) for name in columns]
        values = np.concatenate([value for value, _ in parsed])
        bad = np.concatenate([wrong for _, wrong in parsed])
        return self.assemble(
            "wide", roles, tuple(columns), series_R, times.repeated(len(columns)), values, bad
        )

    def wide_rows(self, found: tuple[list[str], list[str], Times]) -> SeriesSet:
        """A row per series: as if turned."""
        ids, columns, times = found
        rows = self.table.num_rows
        if ids:
            names, series = self.name_series(ids)
        else:
            names, series = tuple(f"row {number}" for number in self.table.row_numbers), np.arange(rows)
        parsed = [self.columns.numbers(name) for name in columns]
        values = np.stack([value for value, _ in parsed], axis=1).ravel()
        bad = np.stack([wrong for _, wrong in parsed], axis=1).ravel()
        series_R = np.repeat(series, len(columns))
        return self.assemble(
            "wide_rows", Roles(ids=tuple(ids)), names, series_R, times.repeated(rows), values, bad
        )

    # ---------------------------------------------------------------------------------------------- grid

    def place(self, row: int) -> str:
        return self.table.place(row % self.table.num_rows)

    def places(self, rows_R: np.ndarray) -> list[str]:
        return [self.place(int(row)) for row in np.flatnonzero(rows_R)]

    def assemble(
        self,
        layout: Layout,
        roles: Roles,
        names: tuple[str, ...],
        series_R: np.ndarray,
        times: Times,
        values_R: np.ndarray,
        bad_R: np.ndarray,
    ) -> SeriesSet:
        """Puts values on a grid: sorts, joins what is there twice, leaves gaps."""
        noticed = self.noticed
        noticed.bad_numbers = self.places(bad_R)
        noticed.bad_times = self.places(~times.known)
        noticed.ambiguous_dates = times.ambiguous
        usable_R = times.known & (series_R >= 0)
        valued_R = usable_R & np.isfinite(values_R)
        if not valued_R.any():
            raise DataError(
                "There is no row with a time and a value.",
                value=roles.target,
                hint="check that the column to forecast holds numbers",
            )
        valued_R &= ~self.dated_later(times, valued_R)
        frequency = infer_frequency(Times(kind=times.kind, seconds=times.seconds, known=valued_R), series_R)
        seconds = times.seconds
        sorted_before = np.all((np.diff(seconds[valued_R]) >= 0) | (np.diff(series_R[valued_R]) != 0))
        noticed.unsorted = not bool(sorted_before)
        place_R = frequency.place(seconds)
        phase = _phases(place_R, series_R, valued_R, len(names))
        index_R = np.round(place_R - phase[series_R])
        off_R = valued_R & (np.abs(place_R - phase[series_R] - index_R) > 0.02)
        if frequency.unit != "months":
            noticed.off_grid = self.places(off_R)
        index_R = index_R.astype(np.int64)
        rows = np.flatnonzero(valued_R)
        series, index, values = self.merge(rows, series_R, index_R, values_R)
        kept: list[int] = []
        grids: list[np.ndarray] = []
        starts: list[float] = []
        bounds = np.searchsorted(series, np.arange(len(names) + 1))
        for number in range(len(names)):
            span = slice(bounds[number], bounds[number + 1])
            at, known = index[span], values[span]
            if not len(at):
                noticed.empty.append(names[number])
                continue
            size = int(at[-1] - at[0]) + 1
            if size > _MAX_GRID_FACTOR * len(at) + 1000:
                noticed.sparse.append(names[number])
                continue
            grid = np.full(size, np.nan)
            grid[at - at[0]] = known
            if missing := size - len(at):
                noticed.gaps[names[number]] = missing
            kept.append(number)
            grids.append(grid)
            starts.append(at[0] + phase[number])
        if not grids:
            raise DataError(
                "No series has a regular grid of times.",
                value=len(names),
                hint="dates of one series must be evenly spaced; check for mistyped years",
            )
        kept_names = tuple(names[number] for number in kept)
        grids = self.fill(kept_names, grids, starts)
        chosen = SeriesSet(
            layout=layout,
            roles=roles,
            names=kept_names,
            values=tuple(grids),
            starts=np.array(starts),
            frequency=frequency,
            zone=times.zone,
            noticed=noticed,
        )
        if layout == "long" and roles.covariates:
            return self.with_covariates(chosen, kept, series_R, index_R, usable_R, phase)
        return chosen

    def dated_later(self, times: Times, valued_R: np.ndarray) -> np.ndarray:
        """Rows to leave out because they are dated after today, bool [R].

        A few such are mistyped; where they are many, the data is about the future, and is taken as it is.
        """
        nothing = np.zeros(len(valued_R), bool)
        if self.now_s is None or times.kind != "time":
            return nothing
        later_R = valued_R & (times.seconds > self.now_s + 86_400)
        if not later_R.any():
            return nothing
        self.noticed.future_rows = self.places(later_R)
        self.noticed.future_kept = bool(later_R.sum() > 0.05 * valued_R.sum())
        return nothing if self.noticed.future_kept else later_R

    def merge(
        self,
        rows: np.ndarray,
        series_R: np.ndarray,
        index_R: np.ndarray,
        values_R: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One value per series and place, sorted. Equal copies are dropped; see `Noticed.duplicate_rule`."""
        order = rows[np.lexsort((rows, index_R[rows], series_R[rows]))]
        series, index, values = series_R[order], index_R[order], values_R[order]
        fresh = np.concatenate([[True], (np.diff(series) != 0) | (np.diff(index) != 0)])
        if fresh.all():
            return series, index, values
        copies = ~fresh & np.concatenate([[False], values[1:] == values[:-1]])
        group = np.cumsum(fresh) - 1
        several = np.bincount(group)[group] > 1
        differing = np.zeros(group[-1] + 1, bool)
        np.logical_or.at(differing, group, ~fresh & ~copies)
        share = several.sum() / len(values)
        # Sales by transaction come many to a period and add up; a few doubles are mistakes.
        transactions = share > 0.3 and differing.mean() > 0.1
        self.noticed.duplicate_rule = "sum" if transactions else "mean"
        self.noticed.equal_duplicates = 0 if transactions else int(copies.sum())
        if not transactions:
            places = order[differing[group] & ~fresh]
            self.noticed.duplicates = [self.place(int(row)) for row in places]
        else:
            self.noticed.duplicates = [self.place(int(row)) for row in order[~fresh]]
        totals = np.bincount(group, weights=values)
        merged = totals if transactions else totals / np.bincount(group)
        return series[fresh], index[fresh], merged

    def fill(
        self, names: Sequence[str], grids: list[np.ndarray], starts: Sequence[float]
    ) -> list[np.ndarray]:
        """Gaps as zeros where they mean that: then nothing was sold after a series' last row, either."""
        missing = sum(int(np.isnan(grid).sum()) for grid in grids)
        total = sum(len(grid) for grid in grids)
        lowest = min(float(np.nanmin(grid)) for grid in grids)
        if self.gaps != "zero" and not (self.gaps == "auto" and lowest > 0 and missing > 0.2 * total):
            return grids
        last = max(start + len(grid) for grid, start in zip(grids, starts, strict=True))
        filled = []
        for name, grid, start in zip(names, grids, starts, strict=True):
            after = int(last - start - len(grid) + 1e-6)
            if after:
                self.noticed.gaps[name] = self.noticed.gaps.get(name, 0) + after
            filled.append(np.concatenate([np.nan_to_num(grid, nan=0.0), np.zeros(after)]))
        self.noticed.zero_filled = bool(self.noticed.gaps)
        return filled

    def with_covariates(
        self,
        chosen: SeriesSet,
        kept: Sequence[int],
        series_R: np.ndarray,
        index_R: np.ndarray,
        usable_R: np.ndarray,
        phase: np.ndarray,
    ) -> SeriesSet:
        """Adds the covariates on the grid of each series, as far into the future as they go."""
        row_of = np.full(int(series_R.max()) + 1, -1)
        row_of[list(kept)] = np.arange(len(kept))
        begin = np.round(chosen.starts - phase[list(kept)]).astype(np.int64)
        sizes = np.array([len(values) for values in chosen.values])
        local_R = np.where(usable_R & (series_R >= 0), row_of[series_R], -1)
        at_R = index_R - begin[local_R]
        limit = int(sizes.max()) + 4 * chosen.frequency.horizon + 366
        inside_R = (local_R >= 0) & (at_R >= 0) & (at_R < sizes[local_R] + limit)
        found: dict[str, list[np.ndarray]] = {}
        future: list[str] = []
        for name in chosen.roles.covariates:
            values_R, _ = self.columns.numbers(name)
            known_R = inside_R & np.isfinite(values_R)
            ends = sizes.copy()
            np.maximum.at(ends, local_R[known_R], at_R[known_R] + 1)
            grids = [np.full(end, np.nan) for end in ends]
            for local, at, value in zip(
                local_R[known_R].tolist(), at_R[known_R].tolist(), values_R[known_R].tolist(), strict=True
            ):
                grids[local][at] = value
            found[name] = grids
            if (ends > sizes).mean() > 0.5:
                future.append(name)
        return SeriesSet(**{**vars(chosen), "covariates": found, "known_future": tuple(future)})


def _phases(place_R: np.ndarray, series_R: np.ndarray, valued_R: np.ndarray, num_series: int) -> np.ndarray:
    """Where between whole places the values of each series lie (weeks may begin on any day), float64 [N]."""
    phase = np.zeros(num_series)
    rows = np.flatnonzero(valued_R)
    if not len(rows):
        return phase
    fraction = np.round(np.mod(place_R[rows], 1.0), 6) % 1.0
    order = np.lexsort((fraction, series_R[rows]))
    series, fraction = series_R[rows][order], fraction[order]
    change = np.flatnonzero(np.concatenate([[True], (np.diff(series) != 0) | (np.diff(fraction) != 0)]))
    counts = np.diff(np.concatenate([change, [len(series)]]))
    # The most frequent of each series: sorted so that it comes last.
    by_count = np.lexsort((counts, series[change]))
    phase[series[change][by_count]] = fraction[change][by_count]
    return phase
