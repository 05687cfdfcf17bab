"""Which column of a table is what: times, names of series, values, covariates.

Shapes: R rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtorch.data.numbers import parse_numbers
from xtorch.data.tables import Table
from xtorch.data.timestamps import Times, parse_times
from xtorch.errors import ColumnsError

_TIME = re.compile(
    r"(?i)(^|_|\b)(ds|date|dates|datetime|time|timestamp|day|week|month|quarter|year|period|datum|t)($|_|\b)"
)
_TARGET = re.compile(
    r"(?i)(^|_|\b)(y|target|sales|sale|demand|quantity|qty|units|volume|revenue|turnover|value|count|orders|amount"
    r"|umsatz|menge|absatz|consumption|load|traffic)($|_|\b)"
)
_ID = re.compile(
    r"(?i)(^|_|\b)(unique_id|id|ids|series|store|shop|item|sku|product|article|region|dept|department|category|family"
    r"|customer|country|state|city|site|location|name|code|channel|brand|filiale|artikel)($|_|\b)"
)
_COVARIATE = re.compile(
    r"(?i)(^|_|\b)(price|preis|promo|promotion|discount|holiday|feiertag|temp|temperature|weather|rain|snow|event|open"
    r"|closed|cpi|fuel|unemployment|weekday|dow|is_\w+|humidity|wind|markdown\d*|oil)($|_|\b)"
)


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which column is what.

    Attributes:
        time: None: rows are in order.
        ids: Together they name a series; none: there is one.
        target: What is forecast; of wide tables, None.
        covariates: Other numeric columns.
    """

    time: str | None = None
    ids: tuple[str, ...] = ()
    target: str | None = None
    covariates: tuple[str, ...] = ()


def times_of_columns(names: Sequence[str]) -> tuple[list[str], list[str], Times] | None:
    """Id columns, value columns and their times, where most columns are named by times or numbered."""
    numbered = [name for name in names if re.fullmatch(r"[A-Za-z_ ]{0,8}\d{1,5}", name)]
    if len(numbered) >= max(4, 0.8 * len(names)) and len({re.sub(r"\d+$", "", n) for n in numbered}) <= 2:
        # M4's V1, V2, ...: the first is the id; years are times.
        years = [name for name in numbered if re.fullmatch(r"(19|20)\d\d", name)]
        if len(years) < len(numbered) / 2:
            ids = [name for name in names if name not in numbered] or [names[0]]
            values = [name for name in names if name not in ids]
            numbers = np.arange(len(values), dtype=np.int64)
            return ids, values, Times(kind="number", seconds=numbers, known=np.ones(len(values), bool))
    dated = [name for name in names if re.search(r"\d", name)]
    times = parse_times(dated) if len(dated) >= max(4, 0.6 * len(names)) else None
    if times is None or times.kind != "time" or not times.known.all():
        return None
    return [name for name in names if name not in dated], dated, times


class Columns:
    """The columns of a table, parsed once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._parsed: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def numbers(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        if column not in self._parsed:
            self._parsed[column] = parse_numbers(self.table.columns[column])
        return self._parsed[column]

    def is_numeric(self, column: str) -> bool:
        """Whether at least 4 in 5 filled cells are numbers; a column of nothing is not."""
        values, bad = self.numbers(column)
        known = np.isfinite(values).sum()
        return bool(known and bad.sum() <= 0.25 * known)

    def find_time(self, given: str | None) -> tuple[str | None, Times | None]:
        """The column of times: the one that is named so, else the first that reads as dates."""
        columns = self.table.columns
        if given is not None:
            times = parse_times(columns[given])
            if times is None:
                raise ColumnsError(
                    f"Column {given!r} holds no dates or times.",
                    value=given,
                    hint="write them as 2024-01-31 or 2024-01-31 13:00:00",
                )
            return given, times
        named = [name for name in columns if _TIME.search(name)]
        for name in [*named, *(name for name in columns if name not in named)]:
            times = parse_times(columns[name])
            # Plain numbers are only times under a name that says so.
            if times is not None and (
                name in named or (times.kind == "time" and not self._plain_numbers(columns[name]))
            ):
                return name, times
        return None, None

    @staticmethod
    def _plain_numbers(cells: Sequence[str | None]) -> bool:
        filled = [cell for cell in cells[:500] if cell]
        return (
            sum(cell.strip().lstrip("-").replace(".", "", 1).isdigit() for cell in filled) > len(filled) / 2
        )

    def find_roles(self, given: Mapping[str, Any]) -> tuple[Roles, Times, tuple[str, ...]]:
        """Roles, times of the rows, and the columns that are series themselves (of wide tables, else none).

        Args:
            given: What the user said: ``time``, ``ids``, ``target``.

        Raises:
            ColumnsError: There is no time or nothing to forecast, or what was said does not fit.
        """
        columns = self.table.columns
        time, times = self.find_time(given.get("time"))
        if times is None:
            # No time at all: the rows are in order, which only a single series can be.
            numbers = np.arange(self.table.num_rows, dtype=np.int64)
            times = Times(kind="number", seconds=numbers, known=np.ones(len(numbers), bool))
            if len(columns) > 1 and "target" not in given:
                raise ColumnsError(
                    "There is no column of dates or times.",
                    value=list(columns)[:20],
                    hint="add a column such as date with 2024-01-31, or say which column is the target",
                )
        rest = [name for name in columns if name != time]
        numeric = [name for name in rest if self.is_numeric(name)]
        target = given.get("target")
        if target is not None and target not in numeric:
            raise ColumnsError(
                f"Column {target!r} holds no numbers.",
                value=target,
                hint="the target must be a column of numbers",
            )
        given_ids = given.get("ids")
        ids = self.find_ids(times, rest, numeric, target) if given_ids is None else tuple(given_ids)
        free = [name for name in numeric if name not in ids]
        if not free:
            raise ColumnsError(
                "There is no column of numbers to forecast.",
                value=rest[:20],
                hint="the values to forecast must be a column of numbers, such as sales",
            )
        if target is None:
            named = [name for name in free if _TARGET.search(name)]
            plain = [name for name in free if not _COVARIATE.search(name)]
            if not ids and not named and len(plain) > 1:
                others = tuple(name for name in free if name not in plain)
                return Roles(time=time, covariates=others), times, tuple(plain)
            target = named[0] if named else (plain or free)[-1]
        covariates = tuple(name for name in free if name != target)
        return Roles(time=time, ids=ids, target=target, covariates=covariates), times, ()

    def find_ids(
        self, times: Times, rest: Sequence[str], numeric: Sequence[str], target: str | None
    ) -> tuple[str, ...]:
        """The fewest columns with which no time comes twice, those named like ids first."""
        candidates = [
            name
            for name in rest
            if name != target
            and (name not in numeric or (_ID.search(name) and not _TARGET.search(name)))
            and not _COVARIATE.search(name)
        ]
        codes = {name: self.codes([name]) for name in candidates}
        limit = max(2, self.table.num_rows // 3)
        candidates = [name for name in candidates if 1 < codes[name].max() + 1 <= limit or _ID.search(name)]
        key_R = times.seconds
        chosen: list[str] = []
        total = int(times.known.sum())

        def repeats(names: Sequence[str]) -> int:
            joint = self.codes(names)[times.known] if names else np.zeros(total, np.int64)
            return total - len(np.unique(np.stack([joint, key_R[times.known]]), axis=1).T)

        left = repeats(chosen)
        # Text that is named like an id is one, even where it is not needed to tell rows apart.
        remaining = sorted(candidates, key=lambda name: not _ID.search(name))
        while left > 0.01 * total and remaining:
            results = [(repeats([*chosen, name]), index) for index, name in enumerate(remaining)]
            best, index = min(results)
            if best >= left:
                break
            chosen.append(remaining.pop(index))
            left = best
        return tuple(sorted(chosen, key=list(self.table.columns).index))

    def codes(self, names: Sequence[str]) -> np.ndarray:
        """A number for each combination of cells, int64 [R], in order of appearance."""
        import pandas as pd

        joint = np.zeros(self.table.num_rows, np.int64)
        for name in names:
            cells = np.array([(cell or "").strip() for cell in self.table.columns[name]], dtype=object)
            codes, unique = pd.factorize(cells)
            joint, _ = pd.factorize(joint * (len(unique) + 1) + codes)
        return joint
