"""Some rows of a table file, of any of the usual kinds, and what its columns look like.

Nothing here raises on a file's content: a head that cannot be read is None. Parquet needs pyarrow.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_BYTES = 256 * 1024
MAX_ROWS = 1000
_NUM_CHUNKS = 8
"""Further places that rows are taken from: tables are often sorted by label."""
_CHUNK_BYTES = 32 * 1024
_ROWS_OF_CHUNK = 50
_MAX_CELL_CHARACTERS = 4000
_DELIMITERS = ",;\t|"
_TIME = re.compile(
    r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?([T ]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?)?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})([T ]\d{1,2}:\d{2}(:\d{2})?( ?[AP]M)?)?"
    r"|(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
    r"|\d{4}-?(Q[1-4]|W\d{1,2})"
    r"|([0-9]{1,2}[ -])?(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*[ ,-]+([0-9]{1,2},? )?\d{2,4}",
    re.IGNORECASE,
)
_TIME_TITLES = frozenset(
    {
        "ds",
        "date",
        "datetime",
        "time",
        "timestamp",
        "day",
        "week",
        "month",
        "year",
        "quarter",
        "period",
        "hour",
    }
)
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_MISSING = frozenset({"", "na", "nan", "n/a", "null", "none", "-", "?"})


@dataclass(frozen=True, kw_only=True)
class TableHead:
    """The first rows of a table, and some from further down.

    Attributes:
        columns: Titles; numbers as text where the file has none.
        rows: Rows of as many cells, as text; "" where there is none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def cells(self, index: int) -> list[str]:
        return [row[index] for row in self.rows]

    def _present(self, index: int) -> list[str]:
        return [cell for cell in self.cells(index) if cell.strip().lower() not in _MISSING]

    def is_number(self, index: int) -> bool:
        """Whether the cells are numbers, but for missing ones."""
        present = self._present(index)
        return bool(present) and all(_NUMBER.fullmatch(cell.strip()) for cell in present)

    def is_measure(self, index: int) -> bool:
        """Whether the cells are numbers that measure rather than name: some have a fraction."""
        return self.is_number(index) and any(
            re.search(r"[.,]\d*[1-9]", cell) for cell in self._present(index)
        )

    def is_time(self, index: int) -> bool:
        """Whether the cells are points in time: dates, or numbers in a column that is called so."""
        present = self._present(index)
        if present and all(_TIME.fullmatch(cell.strip()) for cell in present):
            return True
        words = set(re.split(r"[^a-z]+", self.columns[index].lower()))
        return bool(words & _TIME_TITLES) and self.is_number(index) and len(set(present)) > 1

    def is_time_title(self, index: int) -> bool:
        return _TIME.fullmatch(self.columns[index].strip()) is not None

    def mean_words(self, index: int) -> float:
        """Mean number of words in a cell; 0 for numbers. Text without spaces counts its characters' pairs."""
        present = self._present(index)
        if not present or self.is_number(index):
            return 0.0
        return sum(_num_words(cell) for cell in present) / len(present)


def _num_words(text: str) -> float:
    words = len(text.split())
    wide = sum(ord(character) > 0x2E7F for character in text)
    return words + wide / 2


def read_head(path: Path, num_bytes: int = HEAD_BYTES) -> str:
    """The first characters of a text file, whole lines where there is more; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(num_bytes + 1)
    except OSError:
        return ""
    if b"\0" in data[:64] and not data.startswith(_UTF16):
        return ""
    text = _decoded(data)
    if len(data) > num_bytes and "\n" in text:
        text = text[: text.rindex("\n") + 1]
    return text


def _decoded(data: bytes) -> str:
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    # A character may be cut in the middle where the reading began or ended.
    for end in range(4):
        try:
            return data[: len(data) - end].decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("cp1252", errors="replace")


def _chunks(path: Path) -> list[list[str]]:
    """Whole lines from places spread over the rest of a large file."""
    size = path.stat().st_size
    if size <= HEAD_BYTES + _NUM_CHUNKS * _CHUNK_BYTES:
        return []
    found = []
    with path.open("rb") as file:
        if file.read(2) in _UTF16:
            return []
        for index in range(_NUM_CHUNKS):
            file.seek(HEAD_BYTES + (size - HEAD_BYTES - _CHUNK_BYTES) * (index + 1) // _NUM_CHUNKS)
            lines = file.read(_CHUNK_BYTES).split(b"\n")[1:-1]
            found.append(_decoded(b"\n".join(lines)).splitlines())
    return found


def read_table_head(path: Path) -> TableHead | None:
    """The first rows of a CSV, TSV, JSON, JSON-lines or Parquet file; None for what is no table."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _parquet(path)
        text = read_head(path)
        if suffix in (".jsonl", ".ndjson"):
            lines = text.splitlines()[:MAX_ROWS]
            spread = [line for chunk in _chunks(path) for line in chunk[:_ROWS_OF_CHUNK]]
            return _of_records(_json_lines([*lines, *spread]))
        if suffix == ".json":
            return _json(path, text)
        return _delimited(text, _chunks(path), only_tabs=suffix == ".txt")
    except (ValueError, OSError, csv.Error):
        return None


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> TableHead | None:
    width = len(columns)
    kept = []
    for row in rows:
        cells = [cell[:_MAX_CELL_CHARACTERS] for cell in row[:width]]
        kept.append(tuple(cells + [""] * (width - len(cells))))
    return TableHead(columns=tuple(columns), rows=tuple(kept)) if width and kept else None


def _delimited(text: str, chunks: Sequence[Sequence[str]], *, only_tabs: bool) -> TableHead | None:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if lines[0].startswith("__label__"):
        return _table(("0",), ([line] for line in lines))
    delimiters = "\t" if only_tabs else _DELIMITERS
    # The delimiter is what the first lines have most evenly; quoted text may hold any of them.
    best, width = "", 1
    for delimiter in delimiters:
        widths = [len(row) for row in csv.reader(lines[:20], delimiter=delimiter)]
        typical = max(set(widths), key=widths.count)
        if typical > 1 and (widths.count(typical), typical) > (len(widths) // 2, width):
            best, width = delimiter, typical
    if not best:
        return None
    rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=best) if any(row)]
    head, body = rows[0], rows[1:MAX_ROWS]
    for chunk in chunks:
        # What begins within a quoted cell has another number of cells.
        fitting = [row for row in csv.reader(chunk, delimiter=best) if len(row) == len(head)]
        body += fitting[:_ROWS_OF_CHUNK]
    if _looks_like_data(head, body):
        return _table([str(index) for index in range(len(head))], [head, *body])
    return _table([cell.strip() for cell in head], body)


def _looks_like_data(head: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is no row of titles: it has numbers, long texts or cells of the rows below."""
    if not body:
        return False
    same = [
        index
        for index, cell in enumerate(head)
        if cell and any(index < len(row) and row[index] == cell for row in body[:50])
    ]
    numbers = [
        index
        for index, cell in enumerate(head)
        if _NUMBER.fullmatch(cell.strip())
        and index < len(body[0])
        and _NUMBER.fullmatch(body[0][index].strip())
    ]
    long = any(len(cell.split()) > 8 for cell in head)
    # Wide tables have times, even plain years, as titles.
    return bool(same) or long or (bool(numbers) and len(numbers) < 10)


def _json_lines(lines: Iterable[str]) -> list[Any]:
    return [json.loads(line) for line in lines if line.strip()]


def _json(path: Path, head: str) -> TableHead | None:
    """A list of records; read as a whole, so only where it is small, else as JSON lines."""
    if head.lstrip().startswith("["):
        if path.stat().st_size > 64 * 1024**2:
            return None
        records = json.loads(path.read_bytes())
        if not isinstance(records, list):
            return None
        return _of_records(records[:: max(1, len(records) // MAX_ROWS)])
    lines = head.splitlines()
    return (
        _of_records(_json_lines(lines[:MAX_ROWS]))
        if len(lines) > 1 and lines[0].strip().endswith("}")
        else None
    )


def _of_records(records: Sequence[Any]) -> TableHead | None:
    rows = [record for record in records if isinstance(record, dict)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return _table(columns, ([_text(row.get(name)) for name in columns] for row in rows))


def _parquet(path: Path) -> TableHead | None:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        return None
    try:
        with parquet.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=MAX_ROWS), None)
            return None if batch is None else _of_records(batch.to_pylist())
    except ArrowException:
        return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)
