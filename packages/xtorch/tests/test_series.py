"""Series out of tables: what is inferred, repaired, and refused with a typed error and a hint."""

from __future__ import annotations

import codecs
import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtorch.data.check_series import check_series, inspect_series, refuse
from xtorch.data.numbers import parse_numbers
from xtorch.data.series import SeriesSet, read_series
from xtorch.data.tables import read_table
from xtorch.data.timestamps import parse_times
from xtorch.errors import DataError, XTorchError

DAY = dt.date(2024, 1, 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of lines into a dataset's folder."""

    def write(lines: Sequence[str] | bytes, name: str = "sales.csv") -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        data = lines if isinstance(lines, bytes) else ("\n".join(lines) + "\n").encode()
        (root / name).write_bytes(data)
        return root

    return write


def days(number: int, start: dt.date = DAY, step: int = 1) -> list[str]:
    return [str(start + dt.timedelta(days=step * index)) for index in range(number)]


def daily(number: int = 40, *, offset: float = 10.0) -> list[str]:
    return ["date,sales", *(f"{day},{offset + index % 7}" for index, day in enumerate(days(number)))]


def read(root: Path, **options: Any) -> SeriesSet:
    series = inspect_series(root, **options).series
    assert series is not None
    return series


def codes(root: Path) -> set[str]:
    return {finding["code"] for finding in check_series(root)["findings"]}


def error_of(root: Path) -> dict[str, Any]:
    """The one error that blocks training, with a hint."""
    inspection = inspect_series(root)
    with pytest.raises(DataError) as raised:
        refuse(inspection)
    assert raised.value.hint
    return next(f for f in inspection.report.to_dict()["findings"] if f["severity"] == "error")


# ------------------------------------------------------------------------------------ layouts and roles


def test_long_table_with_two_ids_and_covariates_is_understood(dataset: Callable[..., Path]) -> None:
    lines = ["day,store,item,price,promo,units"]
    for store in ("A", "B"):
        for item in (1, 2):
            for index, day in enumerate(days(30)):
                units = "" if index >= 25 else str(index + item)
                lines.append(f"{day},{store},{item},{9.5 + index},{index % 2},{units}")
    series = read(dataset(lines))
    assert series.layout == "long"
    assert series.roles.time == "day"
    assert series.roles.ids == ("store", "item")
    assert series.roles.target == "units"
    assert series.names == ("A / 1", "A / 2", "B / 1", "B / 2")
    assert [len(values) for values in series.values] == [25] * 4
    assert series.known_future == ("price", "promo")
    assert series.covariates["price"][0][-1] == 9.5 + 29
    facts = check_series(dataset(lines))["facts"]
    assert facts["Covariates known in the future"] == "price, promo"
    assert facts["Frequency"] == "daily"


def test_covariate_that_ends_with_the_target_is_known_in_the_past_only(dataset: Callable[..., Path]) -> None:
    lines = ["date,temperature,sales", *(f"{day},{i % 5},{i}" for i, day in enumerate(days(30)))]
    assert check_series(dataset(lines))["facts"]["Covariates known in the past only"] == "temperature"


def test_column_per_series_is_understood(dataset: Callable[..., Path]) -> None:
    lines = ["date,north,south", *(f"{day},{i},{2 * i}" for i, day in enumerate(days(20)))]
    series = read(dataset(lines))
    assert series.layout == "wide"
    assert series.names == ("north", "south")
    np.testing.assert_array_equal(series.values[1], 2.0 * np.arange(20))


def test_row_per_series_with_dates_as_columns_is_understood(dataset: Callable[..., Path]) -> None:
    months = [f"2023-{month:02d}" for month in range(1, 13)]
    lines = [",".join(["product", *months]), *(f"P{n}," + ",".join(["5"] * 12) for n in range(3))]
    series = read(dataset(lines))
    assert series.layout == "wide_rows"
    assert series.frequency.name == "monthly"
    assert series.names == ("P0", "P1", "P2")


def test_m4_rows_of_unequal_length_are_understood(dataset: Callable[..., Path]) -> None:
    lines = ['"V1","V2","V3","V4","V5","V6","V7"', '"W1",1,2,3,4,5,6', '"W2",7,8,9,10,11,']
    series = read(dataset(lines))
    assert [len(values) for values in series.values] == [6, 5]
    assert series.frequency.unit == "numbers"


def test_parquet_with_dates_is_understood(dataset: Callable[..., Path], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow.parquet as pq

    root = tmp_path / "parquet"
    root.mkdir()
    stamps = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=hour) for hour in range(60)]
    table = pa.table({"ts": stamps, "load": np.arange(60.0)})
    pq.write_table(table, root / "load.parquet")
    series = read(root)
    assert series.frequency.name == "hourly"
    assert series.frequency.horizon == 48


def test_several_files_of_date_and_value_are_a_series_each(dataset: Callable[..., Path]) -> None:
    dataset(daily(30), "north.csv")
    series = read(dataset(daily(30), "south.csv"))
    assert series.names == ("north", "south")


@pytest.mark.parametrize(
    ("texts", "name", "season"),
    [
        ([f"2020-01-0{1 + i // 24} {i % 24:02d}:00" for i in range(48)], "hourly", 24),
        ([f"2020-01-01 0{i // 4}:{15 * (i % 4):02d}" for i in range(36)], "every 15 minutes", 96),
        (days(30, step=7), "weekly", 1),
        ([f"2020-{m:02d}-28" for m in range(1, 13)], "monthly", 12),
        ([f"{y}Q{q}" for y in (2019, 2020, 2021) for q in (1, 2, 3, 4)], "quarterly", 4),
        ([str(year) for year in range(1990, 2010)], "yearly", 1),
        ([f"{1577836800 + 3600 * i}" for i in range(30)], "hourly", 24),
        ([f"2021-W{week:02d}" for week in range(1, 30)], "weekly", 1),
        ([f"{d:02d}.01.2021" for d in range(1, 29)], "daily", 7),
        ([f"01/{d:02d}/2021" for d in range(1, 29)], "daily", 7),
        ([d for d in days(60) if dt.date.fromisoformat(d).weekday() < 5], "business days", 5),
    ],
)
def test_frequency_is_inferred(
    dataset: Callable[..., Path], texts: list[str], name: str, season: int
) -> None:
    series = read(dataset(["time,value", *(f"{text},{index}" for index, text in enumerate(texts))]))
    assert series.frequency.name == name
    assert series.frequency.season == season
    np.testing.assert_array_equal(series.values[0], np.arange(len(texts)))
    first, second = (series.frequency.time(float(series.starts[0]) + step) for step in (0, 1))
    times = parse_times(texts)
    assert times is not None
    if name not in ("monthly", "quarterly", "yearly"):
        assert [first, second] == times.seconds[:2].tolist()


# ------------------------------------------------------------------------------------------ dirty input


def test_gaps_stay_missing_and_are_reported(dataset: Callable[..., Path]) -> None:
    lines = daily(40)
    root = dataset([*lines[:11], *lines[14:]])
    series = read(root)
    assert len(series.values[0]) == 40
    assert np.isnan(series.values[0][10:13]).all()
    assert np.isnan(series.values[0]).sum() == 3
    assert "series.gaps" in codes(root)


def test_many_periods_without_sales_are_zero_unless_told_otherwise(dataset: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    kept = np.sort(rng.choice(200, 90, replace=False))
    stamps = days(200)
    root = dataset(["date,sales", *(f"{stamps[k]},{1 + k % 3}" for k in kept)])
    series = read(root)
    assert series.noticed.zero_filled
    assert not np.isnan(series.values[0]).any()
    assert np.isnan(read(root, gaps="missing").values[0]).any()
    assert "series.no_sales" in codes(root)


def test_zeros_reach_to_the_last_period_of_all_series(dataset: Callable[..., Path]) -> None:
    """What is not sold any more would else end with its last sale, and every forecast begin after one."""
    stamps = days(100)
    sold = [k for k in range(100) if k % 3]
    rows = [f"{stamps[k]},{name},{2 + k % 3}" for k in sold for name in "ab" if name == "a" or k < 60]
    series = read(dataset(["date,item,sales", *rows]))
    assert [len(values) for values in series.values] == [98, 98]
    assert series.values[1][58] > 0
    assert not series.values[1][59:].any()
    assert series.noticed.gaps == {"a": 32, "b": 58}


def test_equal_rows_are_used_once(dataset: Callable[..., Path]) -> None:
    lines = daily(40)
    root = dataset([*lines, lines[5]])
    assert read(root).values[0][4] == 14
    assert "series.equal_rows" in codes(root)


def test_contradicting_rows_are_averaged_and_named(dataset: Callable[..., Path]) -> None:
    root = dataset([*daily(40), f"{days(1)[0]},20"])
    series = read(root)
    assert series.values[0][0] == 15
    assert series.noticed.duplicates == ["sales.csv:42"]
    assert "series.duplicate" in codes(root)


def test_transactions_are_summed(dataset: Callable[..., Path]) -> None:
    lines = ["date,amount", *(f"{day},{n}" for day in days(30) for n in (1, 2, 4))]
    root = dataset(lines)
    np.testing.assert_array_equal(read(root).values[0], np.full(30, 7.0))
    assert "series.summed" in codes(root)


def test_daylight_saving_in_local_time_gives_no_gap_in_offsets(dataset: Callable[..., Path]) -> None:
    # Berlin, 2024-03-31: 02:00 does not exist; the offset goes from +01:00 to +02:00.
    begin = dt.datetime(2024, 3, 30, tzinfo=dt.UTC)
    lines = ["timestamp,load"]
    for hour in range(60):
        instant = begin + dt.timedelta(hours=hour)
        offset = dt.timezone(
            dt.timedelta(hours=1 if instant < dt.datetime(2024, 3, 31, 1, tzinfo=dt.UTC) else 2)
        )
        lines.append(f"{instant.astimezone(offset).isoformat()},{hour}")
    root = dataset(lines)
    series = read(root)
    np.testing.assert_array_equal(series.values[0], np.arange(60.0))
    assert "daylight saving is taken out" in check_series(root)["facts"]["Time zone"]


def test_local_hours_without_offset_lose_one_in_spring_and_double_one_in_autumn(
    dataset: Callable[..., Path],
) -> None:
    begin = dt.datetime(2024, 10, 26)
    stamps = [begin + dt.timedelta(hours=hour) for hour in range(48)]
    twice = dt.datetime(2024, 10, 27, 2)
    stamps = [stamp for stamp in stamps for _ in range(2 if stamp == twice else 1)]
    root = dataset(["timestamp,load", *(f"{stamp},{index}" for index, stamp in enumerate(stamps))])
    series = read(root)
    assert len(series.values[0]) == 48
    assert series.values[0][26] == 26.5
    assert "series.duplicate" in codes(root)


def test_midnights_of_changing_offset_are_local_dates(dataset: Callable[..., Path]) -> None:
    stamps = [f"{day}T00:00:00+0{1 if index < 20 else 2}:00" for index, day in enumerate(days(40))]
    series = read(dataset(["date,sales", *(f"{stamp},{i}" for i, stamp in enumerate(stamps))]))
    assert series.frequency.name == "daily"
    np.testing.assert_array_equal(series.values[0], np.arange(40.0))


def test_few_rows_dated_in_the_future_are_left_out(dataset: Callable[..., Path]) -> None:
    root = dataset([*daily(60), "2124-01-01,5"])
    assert len(read(root).values[0]) == 60
    assert "series.future" in codes(root)


def test_many_future_dates_are_taken_as_they_are(dataset: Callable[..., Path]) -> None:
    lines = ["date,sales", *(f"{day},{i}" for i, day in enumerate(days(40, dt.date(2190, 1, 1))))]
    root = dataset(lines)
    assert len(read(root).values[0]) == 40
    assert "series.future" in codes(root)


def test_negative_sales_are_kept_and_reported(dataset: Callable[..., Path]) -> None:
    lines = daily(40)
    lines[7] = f"{days(7)[-1]},-3"
    root = dataset(lines)
    assert read(root).values[0].min() == -3
    assert "series.negative" in codes(root)


def test_constant_series_blocks_only_when_it_is_alone(dataset: Callable[..., Path]) -> None:
    constant = [f"{day},flat,5" for day in days(30)]
    moving = [f"{day},other,{i % 7}" for i, day in enumerate(days(30))]
    root = dataset(["date,item,sales", *constant, *moving])
    assert "series.constant" in codes(root)
    refuse(inspect_series(root))
    assert error_of(dataset(["date,item,sales", *constant]))["code"] == "series.all_constant"


def test_short_and_empty_series_are_left_out(dataset: Callable[..., Path]) -> None:
    lines = ["date,item,sales", *(f"{day},good,{i % 7}" for i, day in enumerate(days(30)))]
    lines += [f"{DAY},short,1", f"{DAY},empty,", f"{DAY + dt.timedelta(1)},empty,"]
    root = dataset(lines)
    inspection = inspect_series(root)
    assert inspection.series is not None
    assert [inspection.series.names[n] for n in inspection.usable] == ["good"]
    assert {"series.short", "series.empty"} <= codes(root)


def test_column_of_nan_is_no_target(dataset: Callable[..., Path]) -> None:
    lines = ["date,sales,units", *(f"{day},NaN,{i % 7}" for i, day in enumerate(days(30)))]
    assert read(dataset(lines)).roles.target == "units"
    lines = ["date,sales", *(f"{day},NaN" for day in days(30))]
    assert error_of(dataset(lines))["code"] == "series.unreadable"


def test_words_among_numbers_count_as_missing(dataset: Callable[..., Path]) -> None:
    lines = daily(40)
    lines[8] = f"{days(8)[-1]},closed"
    root = dataset(lines)
    assert np.isnan(read(root).values[0][7])
    assert "series.bad_number" in codes(root)


def test_infinite_values_count_as_missing(dataset: Callable[..., Path]) -> None:
    lines = daily(40)
    lines[8] = f"{days(8)[-1]},inf"
    root = dataset(lines)
    assert np.isnan(read(root).values[0][7])
    assert "series.bad_number" in codes(root)


def test_unreadable_dates_are_left_out(dataset: Callable[..., Path]) -> None:
    root = dataset([*daily(40), "someday,3", "2024-13-45,4"])
    assert len(read(root).values[0]) == 40
    assert "series.bad_time" in codes(root)


def test_mistyped_year_does_not_make_a_series_of_millions(dataset: Callable[..., Path]) -> None:
    lines = ["date,item,sales"]
    lines += [f"{day},{item},{i % 7}" for item in ("a", "b") for i, day in enumerate(days(30))]
    root = dataset([*lines, "1824-01-05,b,9"])
    inspection = inspect_series(root)
    assert inspection.series is not None
    assert inspection.series.names == ("a",)
    assert "series.sparse" in codes(root)


def test_unsorted_rows_are_sorted(dataset: Callable[..., Path]) -> None:
    lines = daily(40)
    root = dataset([lines[0], *reversed(lines[1:])])
    assert read(root).values[0][1] == 11
    assert "series.unsorted" in codes(root)


def test_rows_without_an_id_are_left_out(dataset: Callable[..., Path]) -> None:
    lines = ["date,item,sales"]
    lines += [f"{day},{item},{i % 7}" for item in ("a", "b") for i, day in enumerate(days(30))]
    root = dataset([*lines, f"{DAY},,5"])
    assert read(root).names == ("a", "b")
    assert "series.no_id" in codes(root)


def test_ambiguous_dates_are_reported(dataset: Callable[..., Path]) -> None:
    lines = ["date,sales"]
    lines += [f"{d:02d}/{m:02d}/2024,{d + m}" for m in (1, 2) for d in range(1, 13)]
    assert "series.ambiguous_dates" in codes(dataset(lines))


def test_irregular_hours_are_moved_to_the_grid(dataset: Callable[..., Path]) -> None:
    lines = ["time,value", *(f"2024-01-{1 + i:02d} {9 + (i == 4) * 3:02d}:00,{i}" for i in range(25))]
    root = dataset(lines)
    np.testing.assert_array_equal(read(root).values[0], np.arange(25.0))
    assert "series.off_grid" in codes(root)


def test_semicolons_decimal_commas_and_latin_letters_are_read(dataset: Callable[..., Path]) -> None:
    lines = ["datum;filiale;umsatz"]
    lines += [f"{d:02d}.01.2024;Köln;1.{100 + d},5" for d in range(1, 31)]
    series = read(dataset("\n".join(lines).encode("cp1252")))
    assert series.roles.target == "umsatz"
    assert series.values[0][0] == 1101.5


def test_utf16_with_mark_is_read(dataset: Callable[..., Path]) -> None:
    text = "\n".join(daily(30))
    assert len(read(dataset(codecs.BOM_UTF16_LE + text.encode("utf-16-le"))).values[0]) == 30


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"date,sales\n", "rows"),
        (b"PK\x03\x04rubbish", "Excel"),
        (b"\x00\x01\x02\xff" * 100, "no"),
        (("date,sales\n" + "\n".join(f"{d},word" for d in days(20))).encode(), "numbers"),
        (("a,b\n" + "\n".join(f"x{i},{i}" for i in range(20))).encode(), "dates"),
    ],
)
def test_what_is_no_table_of_series_is_refused_with_a_hint(
    dataset: Callable[..., Path], content: bytes, what: str
) -> None:
    finding = error_of(dataset(content))
    assert what in finding["title"]
    assert finding["hint"]


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path)["code"] == "series.unreadable"
    with pytest.raises(DataError):
        check_series(tmp_path / "nowhere")


def test_horizon_longer_than_the_series_is_refused(dataset: Callable[..., Path]) -> None:
    root = dataset(daily(30))
    assert not inspect_series(root, horizon=5).findings.errors
    with pytest.raises(DataError, match="too few") as raised:
        refuse(inspect_series(root, horizon=20))
    assert "shorter" in str(raised.value.hint)


def test_unknown_column_is_refused_with_those_there_are(dataset: Callable[..., Path]) -> None:
    table = read_table(dataset(daily(30)) / "sales.csv")
    with pytest.raises(XTorchError) as raised:
        read_series(table, roles={"target": "profit"})
    assert raised.value.value == "profit"
    assert "sales" in str(raised.value.hint)


def test_ten_thousand_series_are_read(dataset: Callable[..., Path]) -> None:
    stamps = days(12)
    rows = [f"{day},S{item:05d},{(item + i) % 9}" for item in range(10_000) for i, day in enumerate(stamps)]
    report = check_series(dataset(["date,sku,sales", *rows]))
    assert report["num_items"] == 10_000
    assert not [finding for finding in report["findings"] if finding["severity"] == "error"]


def test_check_is_a_wire_model(dataset: Callable[..., Path]) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    report = wire.CheckReport.model_validate(check_series(dataset(daily(40))))
    assert report.num_items == 1


def test_check_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; import xtorch.data.check_series; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,234", "5"], [1234, 5]),
        (["1.234,50", "0,5"], [1234.5, 0.5]),
        (["$ 1,000.25", "(3)", "12 %"], [1000.25, -3, 12]),
        (["1 234", "1'234"], [1234, 1234]),
        (["n/a", None, "-"], [np.nan] * 3),
        (["1_000", "0x10"], [np.nan] * 2),
    ],
)
def test_numbers_of_many_countries(cells: list[str | None], values: list[float]) -> None:
    np.testing.assert_array_equal(parse_numbers(cells)[0], np.array(values, float))
