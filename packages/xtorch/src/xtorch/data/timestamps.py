"""Texts into times, and times into places on a regular grid.

Shapes: R rows.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

TimeKind = Literal["time", "number"]

_OFFSET = re.compile(r"[T ]\d{1,2}:?\d{2}.*(Z|[+-]\d{2}:?\d{2})$")
_SLASHED = re.compile(r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{2}|\d{4})(?:$|[ T,])")
_QUARTER = re.compile(r"^(\d{4})[ -]?[Qq]([1-4])$|^[Qq]([1-4])[ /-]?(\d{4})$")
_WEEK = re.compile(r"^(\d{4})-?[Ww](\d{1,2})$")
_MONTH = re.compile(r"^(\d{4})[-/.](\d{1,2})$")
_DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class Times:
    """Times of rows.

    Attributes:
        kind: "time", or "number" where rows are only numbered.
        seconds: int64 [R] since 1970-01-01 on the clock of the data ("number": the numbers); 0 where not
            `known_R`.
        known: bool [R].
        zone: What was done about time zones, for people; "" where there are none.
        day_first: Whether 03/04 is the third of April; None: not a question.
        ambiguous: `day_first` was a guess.
    """

    kind: TimeKind
    seconds: np.ndarray
    known: np.ndarray
    zone: str = ""
    day_first: bool | None = None
    ambiguous: bool = False

    def repeated(self, number: int) -> Times:
        """The same times again and again, for tables with several values at a time."""
        return replace(self, seconds=np.tile(self.seconds, number), known=np.tile(self.known, number))


def parse_times(cells: Sequence[str | None]) -> Times | None:
    """Times of a column; None where less than 4 in 5 of its cells are times.

    Understood are ISO 8601 with and without offsets, day or month first, month names, quarters, ISO weeks,
    years, yyyymm, yyyymmdd, POSIX seconds and milliseconds, and plain numbers of steps. Days before months is
    found out from the values; a time zone's daylight saving is taken out (see `Times.zone`).
    """
    import pandas as pd

    codes_R, unique = pd.factorize(np.array([(cell or "").strip() for cell in cells], dtype=object))
    texts = [str(text) for text in unique]
    filled = [text for text in texts if text]
    if not filled:
        return None
    seconds_U = np.zeros(len(texts), np.int64)
    known_U = np.zeros(len(texts), bool)
    kind: TimeKind = "time"
    zone, day_first, ambiguous = "", None, False
    numeric = [text.lstrip("-").isdigit() for text in filled]
    if sum(numeric) >= 0.8 * len(filled):
        kind = _parse_numbers(texts, seconds_U, known_U)
    else:
        day_first, ambiguous = _day_first(filled)
        zone = _parse_texts(texts, seconds_U, known_U, day_first=bool(day_first))
    known_R = known_U[codes_R]
    num_filled = sum(1 for cell in cells if cell and cell.strip())
    if known_R.sum() < 0.8 * num_filled or not known_R.any():
        return None
    return Times(
        kind=kind,
        seconds=seconds_U[codes_R],
        known=known_R,
        zone=zone,
        day_first=day_first,
        ambiguous=ambiguous,
    )


def _parse_numbers(texts: Sequence[str], seconds_U: np.ndarray, known_U: np.ndarray) -> TimeKind:
    """Years, yyyymm, yyyymmdd, POSIX times, else steps."""
    numbers = {index: int(text) for index, text in enumerate(texts) if text.lstrip("-").isdigit()}
    values = np.array(list(numbers.values()), dtype=np.float64)
    low, high = values.min(), values.max()
    digits = {len(texts[index]) for index in numbers}

    def dates(form: str, cut: int) -> dict[int, int]:
        found = {}
        for index in numbers:
            text = texts[index]
            try:
                stamp = np.datetime64(form.format(text[:4], text[4:6] or "01", text[6:8] or "01")[:cut], "s")
            except ValueError:
                continue
            found[index] = int(stamp.astype(np.int64))
        return found

    found: dict[int, int] | None = None
    if digits == {4} and low >= 1600 and high <= 2200:
        found = dates("{}-01-01", 10)
    elif digits == {6} and low >= 160001 and high <= 220012:
        found = dates("{}-{}-01", 10)
    elif digits == {8} and low >= 16000101 and high <= 22001231:
        found = dates("{}-{}-{}", 10)
    if found and len(found) >= 0.8 * len(numbers):
        parsed, kind = found, "time"
    elif digits <= {9, 10} and low > 10**8:
        parsed, kind = numbers, "time"
    elif digits <= {12, 13} and low > 10**11:
        parsed, kind = {index: value // 1000 for index, value in numbers.items()}, "time"
    else:
        parsed, kind = numbers, "number"
    for index, value in parsed.items():
        if abs(value) < 2**60:
            seconds_U[index], known_U[index] = value, True
    return "number" if kind == "number" else "time"


def _day_first(texts: Sequence[str]) -> tuple[bool | None, bool]:
    """Whether days stand before months, and whether that is a guess."""
    pairs = [(int(m[1]), int(m[2])) for m in map(_SLASHED.match, texts) if m]
    if not pairs:
        return None, False
    first, second = sum(a > 12 for a, _ in pairs), sum(b > 12 for _, b in pairs)
    if first != second:
        return first > second, False
    # No day above 12: whichever place takes fewer values is the month of daily data, or the day of monthly
    # data.
    num_first, num_second = len({a for a, _ in pairs}), len({b for _, b in pairs})
    return (num_first == 1 < num_second, False) if 1 in (num_first, num_second) else (True, True)


def _parse_texts(texts: Sequence[str], seconds_U: np.ndarray, known_U: np.ndarray, *, day_first: bool) -> str:
    """Fills the times in; what was done about zones."""
    import pandas as pd

    rest: list[int] = []
    for index, text in enumerate(texts):
        if quarter := _QUARTER.match(text):
            year, number = quarter[1] or quarter[4], quarter[2] or quarter[3]
            stamp = np.datetime64(f"{year}-{3 * int(number) - 2:02d}-01", "s")
        elif (month := _MONTH.match(text)) and 1 <= int(month[2]) <= 12:
            stamp = np.datetime64(f"{month[1]}-{int(month[2]):02d}-01", "s")
        elif (week := _WEEK.match(text)) and 1 <= int(week[2]) <= 53:
            fourth = np.datetime64(f"{week[1]}-01-04", "D")
            monday = fourth - (int(fourth.astype(np.int64)) + 3) % 7
            stamp = (monday + 7 * (int(week[2]) - 1)).astype("datetime64[s]")
        else:
            if text:
                rest.append(index)
            continue
        seconds_U[index], known_U[index] = int(stamp.astype(np.int64)), True
    if not rest:
        return ""
    zoned = sum(bool(_OFFSET.search(texts[index])) for index in rest) > len(rest) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = [texts[index] for index in rest]
        parsed = pd.to_datetime(
            pd.Series(chosen, dtype=object), errors="coerce", dayfirst=day_first, format="mixed", utc=zoned
        )
    known = parsed.notna().to_numpy()
    stamps = parsed.dt.tz_localize(None) if zoned else parsed
    values = np.zeros(len(rest), np.int64)
    values[known] = stamps.to_numpy()[known].astype("datetime64[s]").astype(np.int64)
    zone = ""
    if zoned:
        values, zone = _wall_clock(chosen, values, known)
    seconds_U[rest], known_U[rest] = values, known
    return zone


def _wall_clock(texts: Sequence[str], utc: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, str]:
    """UTC seconds moved to the clock of the data.

    Dates (local midnights) keep their local date. Times within days keep one offset all year, so that
    daylight saving makes neither a gap nor an hour twice.
    """
    offsets = np.array([_offset_s(text) for text in texts], dtype=np.int64)
    present, counts = np.unique(offsets[known], return_counts=True)
    if not len(present):
        return utc, ""
    usual = int(present[counts.argmax()])
    sign = "+" if usual >= 0 else "-"
    name = f"UTC{sign}{abs(usual) // 3600:02d}:{abs(usual) % 3600 // 60:02d}"
    local = utc + offsets
    if (local[known] % _DAY_S == 0).all():
        return local, f"local dates ({name})" if len(present) > 1 else name
    if len(present) > 1:
        return utc + usual, f"{name} all year: daylight saving is taken out"
    return utc + usual, name


def _offset_s(text: str) -> int:
    match = re.search(r"([+-])(\d{2}):?(\d{2})$", text)
    return 0 if match is None else int(f"{match[1]}1") * (3600 * int(match[2]) + 60 * int(match[3]))


# ---------------------------------------------------------------------------------------------- frequency


@dataclass(frozen=True, kw_only=True)
class Frequency:
    """The distance between two values of a series.

    Attributes:
        name: For people: "hourly", "every 15 minutes", "business days".
        unit: How places are counted: seconds in fixed steps, months of the calendar, business days, or
            numbers.
        step: Seconds, months, business days or numbers from one value to the next.
        season: Of the naive forecast and of MASE: values from one season to the next; 1: none.
        seasons: Values after which a pattern may come again, the shortest first.
        horizon: Values that are forecast unless told otherwise.
    """

    name: str
    unit: Literal["seconds", "months", "business_days", "numbers"]
    step: int
    season: int
    seasons: tuple[int, ...]
    horizon: int

    def place(self, seconds_R: np.ndarray) -> np.ndarray:
        """Where on a grid that is common to all series times lie, float64 [R]; whole numbers lie on it."""
        if self.unit == "months":
            months = seconds_R.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
            return months / self.step
        if self.unit == "business_days":
            days = seconds_R.astype("datetime64[s]").astype("datetime64[D]")
            counted = np.busday_count(np.datetime64("1970-01-01"), days)
            return counted.astype(np.float64)
        return np.asarray(seconds_R, np.float64) / self.step

    def time(self, place: float) -> int:
        """The time of a place, as in `Times.seconds`."""
        if self.unit == "months":
            month = np.datetime64("1970-01", "M") + round(place * self.step)
            return int(month.astype("datetime64[s]").astype(np.int64))
        if self.unit == "business_days":
            day = np.busday_offset(np.datetime64("1970-01-01"), round(place), roll="forward")
            return int(day.astype("datetime64[s]").astype(np.int64))
        return round(place * self.step)


def infer_frequency(times: Times, series_R: np.ndarray) -> Frequency:
    """The frequency that most neighbours of the same series have.

    Args:
        times: Of all rows.
        series_R: int64, which series a row belongs to.
    """
    known = times.known
    order = np.lexsort((times.seconds[known], series_R[known]))
    seconds, series = times.seconds[known][order], series_R[known][order]
    steps = np.diff(seconds)[(np.diff(series) == 0) & (np.diff(seconds) > 0)]
    if times.kind == "number":
        step = _usual(steps) if len(steps) else 1
        return Frequency(name="numbered steps", unit="numbers", step=step, season=1, seasons=(), horizon=12)
    if not len(steps):
        return _named(_DAY_S)
    values, counts = np.unique(steps, return_counts=True)
    if counts.max() < 0.5 * counts.sum():
        # Calendar months differ; and where most periods are missing, the times of all series together tell
        # more.
        all_steps = np.diff(np.unique(seconds))
        usual = _usual(all_steps) if len(all_steps) else int(values[counts.argmax()])
        median = int(np.median(steps))
        usual = median if 27 <= median / _DAY_S <= 367 and usual >= 27 * _DAY_S else usual
    else:
        usual = int(values[counts.argmax()])
    weekdays = (seconds // _DAY_S + 3) % 7
    weekend = float((weekdays >= 5).mean())
    if usual == _DAY_S and weekend < 0.01 and len(np.unique(weekdays)) == 5 and len(seconds) >= 10:
        return Frequency(
            name="business days", unit="business_days", step=1, season=5, seasons=(5,), horizon=10
        )
    return _named(usual)


def _usual(steps: np.ndarray) -> int:
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()])


def _named(step_s: int) -> Frequency:
    days = step_s / _DAY_S

    def months(name: str, step: int, season: int, horizon: int) -> Frequency:
        seasons = (season,) if season > 1 else ()
        return Frequency(name=name, unit="months", step=step, season=season, seasons=seasons, horizon=horizon)

    def fixed(name: str, seasons: tuple[int, ...], horizon: int) -> Frequency:
        season = seasons[0] if seasons else 1
        return Frequency(
            name=name, unit="seconds", step=step_s, season=season, seasons=seasons, horizon=horizon
        )

    if 364 <= days <= 367:
        return months("yearly", 12, 1, 6)
    if 180 <= days <= 185:
        return months("half-yearly", 6, 2, 4)
    if 89 <= days <= 93:
        return months("quarterly", 3, 4, 8)
    if 27 <= days <= 32:
        return months("monthly", 1, 12, 12)
    if days == 7:
        # The year is a season to learn from; naive forecast and MASE go by the week before, as in M4.
        return replace(fixed("weekly", (52,), 13), season=1)
    if days == 1:
        return fixed("daily", (7,), 28)
    if days > 1:
        return fixed(f"every {days:g} days", (), 12)
    if step_s == 3600:
        return fixed("hourly", (24, 168), 48)
    per_day = _DAY_S // step_s if step_s and _DAY_S % step_s == 0 else 0
    seasons = (per_day, 7 * per_day) if 1 < per_day <= 96 else (per_day,) if 1 < per_day <= 1440 else ()
    if step_s % 3600 == 0:
        return fixed(f"every {step_s // 3600} hours", seasons, max(per_day, 12))
    if step_s % 60 == 0:
        return fixed(f"every {step_s // 60} minutes", seasons, min(max(per_day, 12), 96))
    return fixed(f"every {step_s} seconds", (), 60)
