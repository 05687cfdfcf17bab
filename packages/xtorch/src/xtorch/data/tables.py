"""Tables as people have them: CSV of any delimiter, quoting and encoding, JSON, JSON lines, Parquet.

Every cell is text or None: what a column means is for the reader to find out. Needs neither torch nor pandas.
"""

from __future__ import annotations

import csv
import io
import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from xtorch.data.encoding import decode
from xtorch.errors import DataError, TableError

SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet")
"""What `read_table` takes; ``.txt`` as well, where it is asked to."""
MAX_BYTES = 1 << 30
"""Of one file: cells are held in memory."""
_DELIMITERS = (",", "\t", ";", "|")
_SAMPLE_CHARACTERS = 1 << 18
_SAMPLE_ROWS = 500
_MAX_NAME_CHARACTERS = 80
_MAX_NAME_WORDS = 8
_MAX_CELL_LINES = 200
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}.*")
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?%?")
_MAGIC = (
    (b"PK\x03\x04", "an Excel or zip file", "save the sheet as CSV UTF-8, or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "save the sheet as CSV UTF-8"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"SQLite format 3", "a SQLite database", "export the table as CSV"),
    (b"%PDF", "a PDF", "export the table as CSV"),
)

Format = Literal["csv", "json", "jsonl", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's columns and what was noticed while reading it.

    Attributes:
        name: The file's name.
        columns: Name -> cells, all of one length; None is an empty cell. Values that are not text are written
            as JSON writes them (``3``, ``true``, ``["a", "b"]``); Parquet's dates as ISO 8601.
        row_numbers: Of each row, its number in the file, from 1 and counting the header, as spreadsheets do.
        has_header: Whether the names come from the file; else they are ``column_1``, ``column_2``, ...
        delimiter: Of CSV.
        mixed_encoding_rows: Rows that were written in another encoding than the rest.
        long_rows: Rows with more cells than columns: left out.
        short_rows: Rows with fewer: filled up with None. These, and all rows below, by number.
        broken_rows: Lines of JSON lines that are no JSON object: left out.
        unclosed_quote: A quote was opened and never closed, so quotes were taken as plain characters.
        renamed_columns: Columns whose name was there already or empty.
        repeated_headers: Rows that are the header again (files that were joined): left out.
    """

    name: str
    format: Format
    columns: dict[str, list[str | None]]
    row_numbers: Sequence[int]
    encoding: str = "utf-8"
    has_header: bool = True
    delimiter: str | None = None
    num_replaced: int = 0
    mixed_encoding_rows: Sequence[int] = ()
    long_rows: Sequence[int] = ()
    short_rows: Sequence[int] = ()
    broken_rows: Sequence[int] = ()
    repeated_headers: Sequence[int] = ()
    renamed_columns: Sequence[str] = ()
    unclosed_quote: bool = False

    @property
    def num_rows(self) -> int:
        return len(self.row_numbers)

    def place(self, index: int) -> str:
        """``file:row`` of a row, for findings."""
        return f"{self.name}:{self.row_numbers[index]}"


def find_tables(root: Path) -> list[Path]:
    """Tables below a folder, sorted; hidden files and macOS's shadows (``__MACOSX``) are none."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)
    )


def read_table(path: str | Path, *, name: str | None = None, header: bool | None = None) -> Table:
    """Read a table; its suffix says JSON, JSON lines or Parquet, all else is delimited text.

    Args:
        path: The file.
        name: What findings call it; default: the file's name.
        header: Whether the first row of a CSV holds the columns' names; None: found out.

    Raises:
        TableError: Not a table, nothing in it, damaged or too large.
        DataError: It cannot be read.
    """
    path = Path(path)
    name = name or path.name
    suffix = path.suffix.lower()
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_BYTES:
            raise TableError(
                f"{name} is larger than {MAX_BYTES >> 30} GiB.",
                value=size_bytes,
                hint="use a part of it: the rows that matter, without columns that do not",
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}.", value=name) from error
    if suffix == ".parquet":
        return _read_parquet(data, name)
    for magic, what, hint in _MAGIC:
        if data.startswith(magic):
            raise TableError(f"{name} is {what}, not a table in text form.", value=name, hint=hint)
    decoded = decode(data)
    if decoded is None:
        raise TableError(f"{name} is not a text file.", value=name, hint="save the table as CSV in UTF-8")
    if not decoded.text.strip("\n\ufeff \t"):
        raise TableError(f"{name} is empty.", value=name, hint="upload the file again")
    if suffix in (".jsonl", ".ndjson", ".json"):
        table = _read_json(decoded.text, name, lines=suffix != ".json")
        mixed: Sequence[int] = decoded.mixed_lines if table.format == "jsonl" else ()
    else:
        table, line_of_row = _read_delimited(decoded.text, name, header, tab=suffix in (".tsv", ".tab"))
        mixed = [table.row_numbers[index] for index in _rows_of_lines(decoded.mixed_lines, line_of_row)]
    fields = vars(table) | {
        "encoding": decoded.encoding,
        "num_replaced": decoded.num_replaced,
        "mixed_encoding_rows": tuple(mixed),
    }
    return Table(**fields)


# -------------------------------------------------------------------------------------- delimited text


@dataclass(kw_only=True)
class _Record:
    number: int
    line: int
    cells: list[str]


def _parse(
    text: str, delimiter: str, *, quoting: bool = True, strict: bool = False, limit: int | None = None
) -> list[_Record]:
    """Records that are not blank. With `strict`, raises csv.Error on a quote out of place or not closed."""
    csv.field_size_limit(1 << 27)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        strict=strict,
        skipinitialspace=True,
    )
    records: list[_Record] = []
    line = 1
    for number, cells in enumerate(reader, start=1):
        if any(cells):
            records.append(_Record(number=number, line=line, cells=cells))
        line = reader.line_num + 1
        if limit is not None and len(records) >= limit:
            break
    return records


def _records(text: str, delimiter: str) -> tuple[list[_Record], bool]:
    """Records, and whether quotes had to be taken as plain characters."""
    try:
        return _parse(text, delimiter, strict=True), False
    except csv.Error as error:
        if "unexpected end" not in str(error):
            # Characters behind a closing quote (``"He" said``): they belong to the cell.
            records = _parse(text, delimiter)
            if not any(cell.count("\n") > _MAX_CELL_LINES for record in records for cell in record.cells):
                return records, False
        return _parse(text, delimiter, quoting=False), True


def _find_delimiter(text: str, *, prefer: str | None) -> str:
    """The one that cuts most rows into the same number of cells, and that into more than one."""
    sample = text[:_SAMPLE_CHARACTERS]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, best_score = ",", (0.0, 0, 0)
    for delimiter in _DELIMITERS:
        # Not strict: the sample may end inside of a quoted cell.
        records = _parse(sample, delimiter, limit=_SAMPLE_ROWS)
        widths = Counter(len(record.cells) for record in records)
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        if width < 2:
            continue
        score = (round(count / len(records), 2), int(delimiter == prefer), width)
        if score > best_score:
            best, best_score = delimiter, score
    return prefer if prefer is not None and best_score == (0.0, 0, 0) else best


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether a first row is names: short, no dates, no numbers among words, no values of their column."""
    names = [cell.strip() for cell in first]
    filled = [name for name in names if name]
    if not filled:
        return False
    if any(len(n) > _MAX_NAME_CHARACTERS or "\n" in n or len(n.split()) > _MAX_NAME_WORDS for n in names):
        return False
    if _DATE.fullmatch(filled[0]):
        return False
    numbers = [bool(_NUMBER.fullmatch(name)) for name in filled]
    # Numbers only as the rear columns of a wide table (``id,2019,2020,...``).
    if numbers[0] or (any(numbers) and not all(numbers[1:]) and sum(numbers) < 3):
        return False
    if any(numbers) and rest and not _looks_wide(filled, numbers):
        return False
    for index, name in enumerate(names):
        if not name or _NUMBER.fullmatch(name):
            continue
        column = [row[index].strip() for row in rest if index < len(row)]
        # A value that comes again below is a value; a whole header that comes again is a joined file.
        if name in column and not any(_same(row, first) for row in rest):
            return False
    return True


def _looks_wide(names: Sequence[str], numbers: Sequence[bool]) -> bool:
    values = [
        float(name.rstrip("%").replace(",", ".")) for name, flag in zip(names, numbers, strict=True) if flag
    ]
    return len(values) >= 3 and all(b > a for a, b in pairwise(values))


def _same(row: Sequence[str], other: Sequence[str]) -> bool:
    return [cell.strip() for cell in row] == [cell.strip() for cell in other]


def _read_delimited(text: str, name: str, header: bool | None, *, tab: bool) -> tuple[Table, list[int]]:
    delimiter = _find_delimiter(text, prefer="\t" if tab else None)
    records, unclosed = _records(text, delimiter)
    if not records:
        raise TableError(f"{name} has no rows.", value=name, hint="upload the file again")
    first, rest = records[0], records[1:]
    if header is None:
        header = _is_header(first.cells, [record.cells for record in rest[:_SAMPLE_ROWS]])
    if header:
        names, renamed = _unique(first.cells)
    else:
        width = Counter(len(record.cells) for record in records).most_common(1)[0][0]
        names, renamed, rest = [f"column_{index}" for index in range(1, width + 1)], [], records
    width = len(names)
    kept: list[_Record] = []
    long_rows: list[int] = []
    short_rows: list[int] = []
    repeated: list[int] = []
    for record in rest:
        cells = record.cells
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            cells = cells[:width]
        if len(cells) > width:
            long_rows.append(record.number)
        elif header and width > 1 and _same(cells, first.cells):
            repeated.append(record.number)
        else:
            if len(cells) < width:
                short_rows.append(record.number)
                cells = cells + [""] * (width - len(cells))
            kept.append(_Record(number=record.number, line=record.line, cells=cells))
    columns: dict[str, list[str | None]] = {
        column: [record.cells[index] or None for record in kept] for index, column in enumerate(names)
    }
    table = Table(
        name=name,
        format="csv",
        columns=columns,
        row_numbers=tuple(record.number for record in kept),
        has_header=header,
        delimiter=delimiter,
        long_rows=tuple(long_rows),
        short_rows=tuple(short_rows),
        repeated_headers=tuple(repeated),
        renamed_columns=tuple(renamed),
        unclosed_quote=unclosed,
    )
    return table, [record.line for record in kept]


def _unique(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names without surrounding space, each once; and those that had to be changed."""
    names: list[str] = []
    renamed: list[str] = []
    for index, cell in enumerate(cells, start=1):
        wanted = cell.strip().lstrip("\ufeff") or f"column_{index}"
        unique, number = wanted, 2
        while unique in names:
            unique, number = f"{wanted}_{number}", number + 1
        if unique != cell.strip().lstrip("\ufeff"):
            renamed.append(unique)
        names.append(unique)
    return names, renamed


def _rows_of_lines(lines: Sequence[int], line_of_row: Sequence[int]) -> list[int]:
    """Indices of the rows that some lines of the file belong to."""
    return sorted({bisect_right(line_of_row, line) - 1 for line in lines} - {-1})


# ------------------------------------------------------------------------------------------------ JSON


def _cell(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_json(text: str, name: str, *, lines: bool) -> Table:
    if not lines:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            # Many files named .json hold one object a line.
            return _read_json(text, name, lines=True)
        return _from_objects(_objects(document, name), name, format="json")
    objects: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                objects.append((number, json.loads(line)))
            except (ValueError, RecursionError):
                objects.append((number, None))
    if len(objects) == 1 and isinstance(objects[0][1], list):
        return _from_objects(_objects(objects[0][1], name), name, format="json")
    return _from_objects(objects, name, format="jsonl")


def _objects(document: Any, name: str) -> list[tuple[int, Any]]:
    """Rows of a document: a list of objects, ``{"data": [...]}``, or columns ``{"text": [...], ...}``."""
    if isinstance(document, dict):
        values = list(document.values())
        if (
            len(values) > 1
            and all(isinstance(v, list) for v in values)
            and len({len(v) for v in values}) == 1
        ):
            rows = zip(*values, strict=True)
            return list(enumerate((dict(zip(document, row, strict=True)) for row in rows), start=1))
        lists = [value for value in values if isinstance(value, list)]
        document = lists[0] if len(lists) == 1 else None
    if not isinstance(document, list) or not document:
        raise TableError(
            f"{name} holds no list of rows.",
            value=name,
            hint='write [{"text": "...", "label": "..."}, ...] or one such object a line',
        )
    return list(enumerate(document, start=1))


def _from_objects(objects: list[tuple[int, Any]], name: str, *, format: Format) -> Table:
    good = [(number, row) for number, row in objects if isinstance(row, dict) and row]
    broken = [number for number, row in objects if not (isinstance(row, dict) and row)]
    if len(broken) > len(good):
        raise TableError(
            f"{name} is not JSON: {len(broken)} of {len(objects)} rows are no objects.",
            value=name,
            hint='write one object a line: {"text": "...", "label": "..."}',
        )
    names = list(dict.fromkeys(str(key) for _, row in good for key in row))
    return Table(
        name=name,
        format=format,
        columns={column: [_cell(row.get(column)) for _, row in good] for column in names},
        row_numbers=tuple(number for number, _ in good),
        broken_rows=tuple(broken),
    )


# --------------------------------------------------------------------------------------------- Parquet


def _read_parquet(data: bytes, name: str) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise TableError(
            "Reading Parquet needs the package pyarrow.",
            value=name,
            hint="pip install 'ignition-xtorch[parquet]', or save the table as CSV",
        ) from error
    try:
        arrow = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(
            f"{name} is not a readable Parquet file.", value=name, hint="write the file again"
        ) from error
    if arrow.num_rows == 0:
        raise TableError(f"{name} has no rows.", value=name, hint="upload the file again")
    names, renamed = _unique(arrow.column_names)
    columns = {
        column: [_arrow_cell(value) for value in arrow.column(index).to_pylist()]
        for index, column in enumerate(names)
    }
    return Table(
        name=name,
        format="parquet",
        columns=columns,
        row_numbers=tuple(range(1, arrow.num_rows + 1)),
        renamed_columns=tuple(renamed),
    )


def _arrow_cell(value: Any) -> str | None:
    if value is None or value == "" or value != value:  # NaN is an empty cell
        return None
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    try:
        return _cell(value)
    except TypeError:
        return str(value)
