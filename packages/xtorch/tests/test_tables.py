"""Tables as people have them: delimiters, quotes, encodings, headers, JSON, Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xtorch.data.encoding import decode
from xtorch.data.tables import Table, find_tables, read_table
from xtorch.errors import DataError, TableError

ROWS = [("I like it", "good"), ("I do not", "bad"), ("It is fine", "good"), ("So so", "bad")]


def write(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def csv_of(delimiter: str = ",", header: bool = True) -> str:
    rows = [("text", "label"), *ROWS] if header else ROWS
    return "".join(delimiter.join(row) + "\n" for row in rows)


def assert_is_rows(table: Table) -> None:
    assert [list(column) for column in table.columns.values()] == [
        [text for text, _ in ROWS],
        [label for _, label in ROWS],
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    table = read_table(write(tmp_path, csv_of(delimiter)))
    assert table.delimiter == delimiter
    assert list(table.columns) == ["text", "label"]
    assert table.row_numbers == (2, 3, 4, 5)
    assert_is_rows(table)


def test_delimiter_is_the_one_outside_of_quotes(tmp_path: Path) -> None:
    lines = ["text;label"] + [f'"a, b, c, {i}";x' for i in range(20)]
    table = read_table(write(tmp_path, "\n".join(lines)))
    assert table.delimiter == ";"
    assert table.columns["text"][3] == "a, b, c, 3"


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("cp1252", "cp1252"),
    ],
)
def test_encoding_is_found(tmp_path: Path, encoding: str, name: str) -> None:
    text = "text,label\n" + "".join(f"Müller's café costs {i} €,good\n" for i in range(9))
    table = read_table(write(tmp_path, text.encode(encoding)))
    assert table.encoding == name
    assert table.columns["text"][8] == "Müller's café costs 8 €"
    assert list(table.columns) == ["text", "label"]


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("shift_jis", "これは日本語の文章です。天気が良いので散歩に行きます。"),
        ("cp1251", "Съешь же ещё этих мягких французских булок, да выпей чаю"),
        ("gb18030", "今天天气很好，我们去公园散步，然后回家吃饭。"),
    ],
)
def test_older_encodings_are_found_by_their_text(tmp_path: Path, encoding: str, sentence: str) -> None:
    text = "text\tlabel\n" + "".join(f"{sentence} {i}\tgood\n" for i in range(30))
    table = read_table(write(tmp_path, text.encode(encoding)))
    assert table.columns["text"][7] == f"{sentence} 7"
    assert table.mixed_encoding_rows == ()


def test_rows_in_another_encoding_are_named(tmp_path: Path) -> None:
    lines = [f"caf\u00e9 {i},good".encode() for i in range(6)]
    lines[3] = "na\u00efve,bad".encode("cp1252")
    table = read_table(write(tmp_path, b"\n".join([b"text,label", *lines])))
    assert table.encoding == "utf-8"
    assert table.columns["text"][3] == "naïve"
    assert table.mixed_encoding_rows == (5,)


def test_header_is_found_where_there_is_one(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, csv_of())).has_header
    without = read_table(write(tmp_path, csv_of(header=False)))
    assert not without.has_header
    assert list(without.columns) == ["column_1", "column_2"]
    assert_is_rows(without)
    assert without.row_numbers == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("date,store_1,store_2", True),
        ("id,2019,2020,2021", True),
        ("V1,V2,V3", True),
        ("3,Fears for pension,Unions say", False),
        ("2020-01-01,5,7", False),
        ("word,12.5,3", False),
        (f"{'long sentence ' * 12},good,x", False),
    ],
)
def test_header_of_numbers_dates_and_sentences(tmp_path: Path, first: str, expected: bool) -> None:
    rows = "\n".join(",".join(f"{i}{j}" for j in range(first.count(",") + 1)) for i in range(4))
    assert read_table(write(tmp_path, f"{first}\n{rows}")).has_header is expected


def test_header_can_be_said(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, csv_of(header=False)), header=True).num_rows == 3


def test_quotes_line_ends_and_doubled_quotes_inside_of_cells(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'text,label\r\n"one, ""two""\r\nthree",a\r\nfour,b\r\n'))
    assert table.columns == {"text": ['one, "two"\nthree', "four"], "label": ["a", "b"]}


def test_text_behind_a_closing_quote_stays_in_its_cell(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'text,label\n"Yes" she said,a\nno,b\n'))
    assert table.columns["label"] == ["a", "b"]
    assert not table.unclosed_quote


def test_quote_that_is_never_closed_swallows_nothing(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'text\tlabel\n5" screen\ta\n"open\tb\nlast\tc\n'))
    assert table.unclosed_quote
    assert table.columns == {"text": ['5" screen', '"open', "last"], "label": ["a", "b", "c"]}


def test_ragged_rows_are_named_and_never_guessed(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "text,label\na,1\nb,with,3\nc\nd,4,,\n\ne,5\n"))
    assert table.long_rows == (3,)
    assert table.short_rows == (4,)
    assert table.columns == {"text": ["a", "c", "d", "e"], "label": ["1", None, "4", "5"]}
    assert [table.place(i) for i in range(4)] == ["data.csv:2", "data.csv:4", "data.csv:5", "data.csv:7"]


def test_header_that_comes_again_is_left_out(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, csv_of() + csv_of()))
    assert table.repeated_headers == (6,)
    assert table.num_rows == 8


def test_equal_and_empty_column_names_are_made_distinct(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "text,text,,label\na,b,c,d\ne,f,g,h\n"))
    assert list(table.columns) == ["text", "text_2", "column_3", "label"]
    assert table.renamed_columns == ("text_2", "column_3")


@pytest.mark.parametrize("name", ["data.jsonl", "data.ndjson", "data.json"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    lines = [
        {"text": "é", "label": ["a", "b"], "n": 3, "ok": True},
        {"text": "", "label": None},
        {"text": "z", "label": "x", "extra": {"k": 1}},
    ]
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    table = read_table(write(tmp_path, content, name))
    assert table.format == "jsonl"
    assert table.columns["text"] == ["é", None, "z"]
    assert table.columns["label"] == ['["a", "b"]', None, "x"]
    assert table.columns["n"] == ["3", None, None]
    assert table.columns["ok"][0] == "true"
    assert table.columns["extra"][2] == '{"k": 1}'


@pytest.mark.parametrize(
    "document",
    [
        [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
        {"data": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]},
        {"text": ["a", "b"], "label": ["x", "y"]},
    ],
)
def test_json_documents(tmp_path: Path, document: object) -> None:
    table = read_table(write(tmp_path, json.dumps(document, indent=1), "data.json"))
    assert table.columns == {"text": ["a", "b"], "label": ["x", "y"]}


def test_broken_lines_of_json_are_named(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, '{"text": "a"}\n{"text": \n{"text": "b"}\n', "data.jsonl"))
    assert table.broken_rows == (2,)
    assert table.columns == {"text": ["a", "b"]}


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    import datetime as dt

    columns = {
        "text": ["é", None],
        "labels": [["a", "b"], []],
        "value": [1.5, float("nan")],
        "day": [dt.date(2024, 2, 29), None],
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    table = read_table(tmp_path / "data.parquet")
    assert table.columns == {
        "text": ["é", None],
        "labels": ['["a", "b"]', "[]"],
        "value": ["1.5", None],
        "day": ["2024-02-29", None],
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("blank.csv", b"\n\n  \n"),
        ("excel.csv", b"PK\x03\x04rest of it"),
        ("old.csv", b"\xd0\xcf\x11\xe0rest of it"),
        ("packed.csv", b"\x1f\x8brest"),
        ("binary.csv", bytes(range(256)) * 20),
        ("wrong.json", b'"a string"'),
        ("broken.json", b'{"text": ["a"'),
        ("text.jsonl", b"just\nsome\nwords\n"),
        ("deep.json", b"[" * 100_000),
        ("none.json", b"[]"),
        ("broken.parquet", b"PAR1 no"),
    ],
)
def test_what_is_no_table_is_refused_with_a_hint(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(TableError) as caught:
        read_table(write(tmp_path, content, name))
    assert caught.value.code == "data.table"
    assert caught.value.hint


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_table(tmp_path / "none.csv")


def test_find_tables_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b.csv", "a/c.JSONL", ".hidden/d.csv", "__MACOSX/e.csv", "._f.csv", "readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.name for path in find_tables(tmp_path)] == ["c.JSONL", "b.csv"]


def test_decode_keeps_what_no_encoding_explains_visible() -> None:
    decoded = decode("é\n".encode() * 4 + b"\xef\xbb\x81\x8d broken\n")
    assert decoded is not None
    assert decoded.encoding == "utf-8"
    assert decoded.mixed_lines == (5,)
    assert decoded.num_replaced >= 1
    assert decode(b"\x00\x01\x02\x00" * 30) is None
