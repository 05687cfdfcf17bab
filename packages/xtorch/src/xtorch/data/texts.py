"""A folder of labelled texts: tables, folders of text files, or files of one labelled text a line.

Found, not asked for: format, encodings, columns, one label or several, and the split where one is given.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xtorch.data.encoding import decode
from xtorch.data.tables import Table, find_tables, read_table
from xtorch.data.text_columns import Columns, Part, infer_columns, is_missing, labels_of, part_of
from xtorch.errors import ColumnsError, DataError

_TRUE = frozenset(("1", "true", "1.0", "yes"))
_FASTTEXT = re.compile(r"((?:__label__\S+\s+)+)(.*)")
_UNLABELLED_FOLDERS = ("unsup", "unlabelled", "unlabeled")
_SPACE = re.compile(r"\s+")
_SHOWN_CHARACTERS = 160


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """A text with its labels.

    Attributes:
        text: As it is, but for surrounding space, in Unicode's composed form (NFC).
        labels: Sorted names; empty where none of several applies.
        place: ``file:row`` or the file.
        part: Where the data says so.
    """

    text: str
    labels: tuple[str, ...]
    place: str
    part: Part | None = None


@dataclass(frozen=True, kw_only=True)
class UsableText:
    """A text that training may use.

    Attributes:
        group: Near duplicates share one; a group never straddles two parts of a split.
    """

    text: str
    labels: tuple[str, ...]
    place: str
    part: Part | None
    group: int


@dataclass(kw_only=True)
class TextData:
    """What was read, and what could not be used, by place.

    Attributes:
        layout: ``csv``, ``jsonl``, ``json``, ``parquet``, ``text_folders``, ``fasttext`` or ``none``.
        spellings: Label -> the other ways in which it was written.
        respelled: Rows whose label was written in one of these.
        unreadable: File -> why.
        problem: Why no column could be told apart; such data cannot be trained on.
    """

    layout: str
    rows: list[TextRow] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    respelled: list[str] = field(default_factory=list)
    mixed_encodings: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unreadable: dict[str, DataError] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    problem: ColumnsError | None = None
    num_files: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class _Raw:
    text: str | None
    labels: list[str] | None
    place: str
    part: Part | None


def read_texts(
    root: str | Path, *, text_columns: Sequence[str] = (), label_columns: Sequence[str] = ()
) -> TextData:
    """Read a folder of labelled texts.

    Args:
        root: Tables (`xtorch.data.tables`), or ``<label>/*.txt``, or ``train/<label>/*.txt`` and so on, or
            ``.txt`` files in fastText's form or with tabs.
        text_columns, label_columns: Of tables; empty: found out.

    Returns:
        Usable rows and everything that was noticed. Nothing usable is no error here: the data check says so.

    Raises:
        DataError: `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("The dataset is not a folder.", value=root.name)
    files = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(p.startswith((".", "__MACOSX")) for p in path.relative_to(root).parts)
    ]
    data = TextData(layout="none", num_files=len(files), size_bytes=sum(p.stat().st_size for p in files))
    tables = find_tables(root)
    texts = [path for path in files if path.suffix.lower() in (".txt", ".text")]
    nested = [path for path in texts if path.parent != root and part_of(path.parent.name) is None]
    used: set[Path] = set()
    raw: list[_Raw] = []
    if tables:
        raw = _from_tables(root, tables, data, text_columns, label_columns)
        used = set(tables)
    if not raw and nested:
        raw = _from_folders(root, nested, data)
        used |= set(nested)
    if not raw and not nested:
        plain = texts or [path for path in files if path.suffix == "" and path not in used]
        raw = _from_lines(root, plain, data, text_columns, label_columns)
        used |= set(plain)
    data.ignored = [path.relative_to(root).as_posix() for path in files if path not in used]
    _collect(raw, data)
    return data


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _part_of_file(name: str) -> Part | None:
    """A part named in a path: ``train.csv``, ``data/test-00000-of-00001.parquet``, ``my_dev.tsv``."""
    for words in reversed([re.split(r"[^A-Za-z]+", piece) for piece in name.split("/")]):
        found = {part for word in words if (part := part_of(word))}
        if len(found) == 1:
            return found.pop()
    return None


def _from_tables(
    root: Path, paths: Sequence[Path], data: TextData, text: Sequence[str], label: Sequence[str]
) -> list[_Raw]:
    tables: list[Table] = []
    for path in paths:
        try:
            tables.append(read_table(path, name=_relative(root, path)))
        except DataError as error:
            data.unreadable[_relative(root, path)] = error
    if not tables:
        return []
    # Columns are found once, on the tables that look alike and have the most rows.
    by_columns: dict[tuple[str, ...], list[Table]] = defaultdict(list)
    for table in tables:
        by_columns[tuple(table.columns)].append(table)
    groups = sorted(by_columns.values(), key=lambda group: -sum(table.num_rows for table in group))
    for group in groups:
        merged: dict[str, list[str | None]] = {
            name: [cell for table in group for cell in table.columns[name]] for name in group[0].columns
        }
        try:
            columns = infer_columns(merged, text=text, label=label)
        except ColumnsError as error:
            data.problem = data.problem or error
            continue
        data.problem = None
        data.layout, data.tables = group[0].format, group
        data.facts |= columns.facts()
        if group[0].format == "csv" and not group[0].has_header:
            data.facts["Header"] = "none, columns are numbered"
        # Tables with other columns may still be the other part of the split.
        needed = {*columns.text, *columns.label}
        others = [t for t in tables if t not in group and needed <= t.columns.keys()]
        data.tables = [*group, *others]
        data.ignored += [table.name for table in tables if table not in data.tables]
        _note_tables(data)
        data.multi_label = columns.one_hot or columns.separator is not None
        raw = [row for table in data.tables for row in _rows_of(table, columns, len(data.tables) > 1)]
        if columns.one_hot and all(row.labels is not None and len(row.labels) == 1 for row in raw):
            data.multi_label = False
        return raw
    return []


def _rows_of(table: Table, columns: Columns, several_files: bool) -> list[_Raw]:
    file_part = _part_of_file(table.name) if several_files else None
    parts = table.columns.get(columns.part or "")
    rows = []
    for index in range(table.num_rows):
        pieces = [table.columns[name][index] for name in columns.text]
        filled = [piece.strip() for piece in pieces if piece is not None and not is_missing(piece)]
        if columns.one_hot:
            cells = {name: table.columns[name][index] for name in columns.label}
            known = all(cell is not None for cell in cells.values())
            labels = (
                [n for n, cell in cells.items() if cell and cell.strip().lower() in _TRUE] if known else None
            )
        else:
            labels = labels_of(table.columns[columns.label[0]][index], columns.separator)
        part = part_of(parts[index] or "") if parts is not None else file_part
        rows.append(_Raw(text=" ".join(filled), labels=labels, place=table.place(index), part=part))
    return rows


def _note_tables(data: TextData) -> None:
    encodings = dict.fromkeys(table.encoding for table in data.tables)
    if list(encodings) != ["utf-8"]:
        data.facts["Encoding"] = ", ".join(encodings)
    delimiters = dict.fromkeys(t.delimiter for t in data.tables if t.delimiter not in (None, ","))
    if delimiters:
        words = {"\t": "tab", ";": "semicolon", "|": "bar"}
        data.facts["Delimiter"] = ", ".join(words.get(str(each), str(each)) for each in delimiters)
    for table in data.tables:
        data.mixed_encodings += [f"{table.name}:{row}" for row in table.mixed_encoding_rows]
        if table.num_replaced:
            data.damaged.append(table.name)


def _decoded(root: Path, path: Path, data: TextData) -> str | None:
    name = _relative(root, path)
    try:
        decoded = decode(path.read_bytes())
    except OSError as error:
        data.unreadable[name] = DataError(f"{name} cannot be read: {error.strerror}.", value=name)
        return None
    if decoded is None:
        data.unreadable[name] = DataError(
            f"{name} is not a text file.", value=name, hint="save it as plain text in UTF-8"
        )
        return None
    if decoded.mixed_lines:
        data.mixed_encodings += [f"{name}:{line}" for line in decoded.mixed_lines]
    if decoded.num_replaced:
        data.damaged.append(name)
    return decoded.text


def _from_folders(root: Path, paths: Sequence[Path], data: TextData) -> list[_Raw]:
    """``[part/]label/file.txt``: the folder right above a file is its label."""
    data.layout = "text_folders"
    data.facts["Labels"] = "names of the folders"
    rows = []
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        text = _decoded(root, path, data)
        if text is not None:
            known = folders[-1].lower() not in _UNLABELLED_FOLDERS
            part = next((found for folder in folders[:-1] if (found := part_of(folder))), None)
            rows.append(
                _Raw(
                    text=text.strip(),
                    labels=[folders[-1]] if known else None,
                    place=_relative(root, path),
                    part=part,
                )
            )
    return rows


def _from_lines(
    root: Path, paths: Sequence[Path], data: TextData, text: Sequence[str], label: Sequence[str]
) -> list[_Raw]:
    """Text files of one labelled text a line: fastText's form, or columns."""
    rows: list[_Raw] = []
    delimited: list[Path] = []
    for path in paths:
        content = _decoded(root, path, data)
        if content is None:
            continue
        lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
        matches = [(number, line, _FASTTEXT.fullmatch(line.strip())) for number, line in lines]
        if lines and sum(match is not None for _, _, match in matches) > 0.5 * len(lines):
            data.layout = "fasttext"
            data.facts["Labels"] = "words that begin with __label__"
            name = _relative(root, path)
            part = _part_of_file(name) if len(paths) > 1 else None
            for number, line, match in matches:
                labels = match and [word.removeprefix("__label__") for word in match[1].split()]
                body = match[2] if match else line
                rows.append(
                    _Raw(text=body.strip(), labels=labels or None, place=f"{name}:{number}", part=part)
                )
        elif any("\t" in line for _, line in lines):
            delimited.append(path)
        else:
            data.ignored.append(_relative(root, path))
    if rows:
        data.multi_label = any(row.labels is not None and len(row.labels) > 1 for row in rows)
        return rows
    return _from_tables(root, delimited, data, text, label) if delimited else []


# --------------------------------------------------------------------------------------- labels, texts


def shortened(text: str) -> str:
    """A text in one line, short enough for a table's cell."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def tidy(text: str) -> str:
    """Composed Unicode; halves of surrogate pairs, which no UTF-8 can hold, become U+FFFD."""
    return unicodedata.normalize(
        "NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ).strip()


def _collect(raw: Sequence[_Raw], data: TextData) -> None:
    """Rows that may be used, with every label in its most frequent spelling."""
    counts = Counter(_SPACE.sub(" ", tidy(label)) for row in raw for label in row.labels or ())
    whole = bool(counts) and all(re.fullmatch(r"-?\d+(\.0+)?", label) for label in counts)
    variants: dict[str, list[str]] = defaultdict(list)
    for spelling, _ in counts.most_common():
        key = re.sub(r"\.0+$", "", spelling) if whole else spelling.casefold()
        variants[key].append(spelling)
    canonical = {spelling: group[0] for group in variants.values() for spelling in group}
    written: dict[str, set[str]] = defaultdict(set)
    for row in raw:
        text = tidy(row.text or "")
        if "\ufffd" in text and "\ufffd" not in (row.text or ""):
            data.damaged.append(row.place)
        if not text or is_missing(text):
            data.empty.append(row.place)
            continue
        if row.labels is None or (not row.labels and not data.multi_label):
            data.unlabelled.append(row.place)
            continue
        names = {}
        for label in row.labels:
            spelling = _SPACE.sub(" ", tidy(label))
            names[canonical[spelling]] = label
            if label != canonical[spelling]:
                written[canonical[spelling]].add(label)
        if any(label != name for name, label in names.items()):
            data.respelled.append(row.place)
        data.rows.append(TextRow(text=text, labels=tuple(sorted(names)), place=row.place, part=row.part))
    data.spellings = {name: sorted(others) for name, others in sorted(written.items())}
    data.labels = tuple(sorted({name for row in data.rows for name in row.labels}, key=_natural))
    if data.multi_label and all(len(row.labels) == 1 for row in data.rows):
        data.multi_label = False
    if data.rows:
        data.facts["Task"] = "several labels a text" if data.multi_label else "one label a text"


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by value, before words."""
    return (0, float(name), name) if re.fullmatch(r"-?\d+(\.\d+)?", name) else (1, 0.0, name)
