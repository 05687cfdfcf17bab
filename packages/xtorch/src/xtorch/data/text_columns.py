"""Which columns of a table are text, labels and parts of a split: inferred, and said in words."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xtorch.errors import ColumnsError

MAX_LABELS = 1000
Cells = Sequence[str | None]
Part = Literal["train", "validation", "test"]

_TEXT_NAMES = (
    *("text", "sentence", "content", "body", "message", "review", "comment", "tweet", "post", "document"),
    *("description", "title", "headline", "subject", "question", "query", "utterance", "abstract", "summary"),
    *("sms", "email", "mail", "article", "input", "feedback", "prompt", "note"),
)
_LABEL_NAMES = (
    *(
        "label",
        "labels",
        "category",
        "categories",
        "class",
        "classes",
        "target",
        "sentiment",
        "intent",
        "topic",
    ),
    *(
        "tag",
        "tags",
        "genre",
        "genres",
        "y",
        "output",
        "annotation",
        "type",
        "rating",
        "stars",
        "spam",
        "group",
    ),
)
_LABEL_WORDS = ("label_text", "label_name", "class_name", "category_name", "labeltext", "labelname")
_PART_NAMES = ("split", "part", "partition", "subset", "set", "fold", "usage")
_PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation", "develop", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
}
MISSING = frozenset(("", "nan", "n/a", "na", "null", "#n/a", "?", "-", "<na>"))
"""Cells that stand for nothing, in lower case."""
_SEPARATORS = ("|", ";", ",")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_ID_NAME = re.compile(
    r"(.*[_ -])?(id|uuid|guid|idx|index|key|url|uri|date|time|timestamp|user|author)s?|unnamed.*"
)
_MIN_TEXT_WORDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a table's columns are for.

    Attributes:
        text: Joined by a space where there are several.
        label: One column with a label or several in a cell; or one column per label with 0 and 1.
        separator: Between labels of a cell; ``json`` for lists; None: a cell is one label.
        one_hot: `label` holds a column per label.
        part: Says train, validation or test.
    """

    text: tuple[str, ...]
    label: tuple[str, ...]
    separator: str | None = None
    one_hot: bool = False
    part: str | None = None

    def facts(self) -> dict[str, str]:
        """For people."""
        several = len(self.text) > 1
        found = {
            "Text columns" if several else "Text column": ", ".join(self.text)
            + (" (joined by a space)" if several else ""),
            "Label columns" if self.one_hot else "Label column": ", ".join(self.label)
            + (" (0 or 1 each)" if self.one_hot else ""),
        }
        if self.separator == "json":
            found["Labels of a row"] = "a list"
        elif self.separator is not None:
            found["Labels of a row"] = f"separated by {self.separator!r}"
        if self.part is not None:
            found["Split column"] = self.part
        return found


def part_of(word: str) -> Part | None:
    """The part of a split that a word of a file's, folder's or cell's name stands for."""
    return _PARTS.get(word.strip().lower())


def is_missing(cell: str | None) -> bool:
    return cell is None or cell.strip().lower() in MISSING


@dataclass(frozen=True, kw_only=True)
class _Profile:
    name: str
    num: int
    distinct: int
    words: float
    characters: float
    numeric: float
    binary: bool
    lists: float
    urls: float

    @property
    def free_text(self) -> bool:
        return (
            self.num > 0
            and self.numeric < 0.5
            and self.lists < 0.5
            and self.urls < 0.5
            and (self.words >= _MIN_TEXT_WORDS or self.characters >= 30)
            and self.distinct >= min(0.3 * self.num, 1000)
        )


def _profile(name: str, cells: Cells) -> _Profile:
    filled = [cell.strip() for cell in cells if not is_missing(cell)]  # type: ignore[union-attr]
    num = max(1, len(filled))
    distinct = set(filled)
    return _Profile(
        name=name,
        num=len(filled),
        distinct=len(distinct),
        words=sum(_num_words(cell) for cell in filled) / num,
        characters=sum(map(len, filled)) / num,
        numeric=sum(bool(_NUMBER.fullmatch(cell)) for cell in filled) / num,
        binary=bool(distinct)
        and {value.lower() for value in distinct} <= {"0", "1", "true", "false", "0.0", "1.0"},
        lists=sum(parse_list(cell) is not None for cell in filled) / num,
        urls=sum(cell.startswith(("http://", "https://", "www.")) and " " not in cell for cell in filled)
        / num,
    )


def _num_words(text: str) -> float:
    """Words; of scripts that write without spaces, about two characters each."""
    return max(len(text.split()), sum(character > "\u2e80" for character in text) / 2)


def parse_list(cell: str) -> list[str] | None:
    """The labels of a cell that holds a list, as JSON or Python write one; None where it holds none."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        values = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            values = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(values, list) or any(isinstance(value, list | dict | tuple) for value in values):
        return None
    return [str(value) for value in values if value is not None]


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def infer_columns(
    columns: Mapping[str, Cells], *, text: Sequence[str] = (), label: Sequence[str] = ()
) -> Columns:
    """Find a table's columns.

    Args:
        columns: Name -> cells.
        text, label: Given ones; empty: found out.

    Raises:
        ColumnsError: There is no text, no label, or it cannot be told which column is the label.
    """
    for wanted in (*text, *label):
        if wanted not in columns:
            raise ColumnsError(
                f"There is no column {wanted!r}.", value=wanted, hint=f"columns: {', '.join(columns)}"
            )
    profiles = {name: _profile(name, cells) for name, cells in columns.items()}
    part = _part_column(columns)
    open_names = [name for name in columns if name != part]
    text = tuple(text) or _text_columns(profiles, [name for name in open_names if name not in label])
    rest = [name for name in open_names if name not in text]
    if label:
        chosen, one_hot = tuple(label), len(label) > 1
    else:
        chosen, one_hot = _label_columns(columns, profiles, rest)
    return Columns(
        text=tuple(text),
        label=chosen,
        separator=None if one_hot else _separator(columns[chosen[0]]),
        one_hot=one_hot,
        part=part,
    )


def _part_column(columns: Mapping[str, Cells]) -> str | None:
    for name, cells in columns.items():
        if _key(name) in _PART_NAMES:
            filled = {cell for cell in cells if cell is not None}
            if len(filled) > 1 and all(part_of(cell) for cell in filled):
                return name
    return None


def _text_columns(profiles: Mapping[str, _Profile], names: Sequence[str]) -> tuple[str, ...]:
    named = [name for name in names if _key(name) in _TEXT_NAMES and profiles[name].free_text]
    if named:
        return tuple(named)
    free = [
        name
        for name in names
        if profiles[name].free_text
        and _key(name) not in (*_LABEL_NAMES, *_LABEL_WORDS)
        and not _ID_NAME.fullmatch(name.lower())
    ]
    if not free:
        # Short texts, such as search queries: the column called text, or the one with the most to tell.
        free = [name for name in names if _key(name) in _TEXT_NAMES and profiles[name].numeric < 0.5][:1]
        worded = [
            name
            for name in names
            if profiles[name].numeric < 0.5
            and profiles[name].words > 1.3
            and profiles[name].distinct > 0.7 * profiles[name].num
            and _key(name) not in _LABEL_NAMES
        ]
        free = free or worded[:1]
    if not free:
        raise ColumnsError(
            "No column holds texts.",
            value=list(names),
            hint="a column of sentences is needed; name it text",
        )
    return tuple(free)


def _label_columns(
    columns: Mapping[str, Cells], profiles: Mapping[str, _Profile], names: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """The column with the label, or those with one each; and whether it is the latter."""
    possible = [
        name
        for name in names
        if profiles[name].num
        and (
            profiles[name].distinct <= min(MAX_LABELS, max(2, 0.5 * profiles[name].num))
            or profiles[name].lists > 0.5
        )
    ]
    by_name = sorted(
        (_LABEL_NAMES.index(_key(name)), name) for name in possible if _key(name) in _LABEL_NAMES
    )
    if by_name:
        best = by_name[0][1]
        return (_worded(columns, best, possible),), False
    worded = [name for name in possible if _key(name) in _LABEL_WORDS]
    if worded:
        return (worded[0],), False
    binary = [name for name in possible if profiles[name].binary and not _ID_NAME.fullmatch(name.lower())]
    if len(binary) >= 2:
        return tuple(binary), True
    likely = [
        name
        for name in possible
        if not _ID_NAME.fullmatch(name.lower()) and (profiles[name].distinct > 1 or len(possible) == 1)
    ]
    if len(likely) == 1:
        return (likely[0],), False
    named = [name for name in names if _key(name) in _LABEL_NAMES and profiles[name].num]
    if named:
        # Too many values for labels, which the data check says with their number.
        return (named[0],), False
    if not likely:
        raise ColumnsError(
            "No column holds labels.",
            value=list(names),
            hint="a column with a label for each text is needed; name it label",
        )
    raise ColumnsError(
        f"It cannot be told which column is the label: {', '.join(likely)}.",
        value=likely,
        hint="rename the one to learn to label",
    )


def _worded(columns: Mapping[str, Cells], label: str, possible: Sequence[str]) -> str:
    """The column with the names of numbered labels (``label_text`` beside ``label``), if there is one."""
    for name in possible:
        if _key(name) in _LABEL_WORDS:
            pairs = {(a, b) for a, b in zip(columns[label], columns[name], strict=True) if a and b}
            if len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                return name
    return label


def _separator(cells: Cells) -> str | None:
    """What stands between several labels of a cell: the parts must come back in other combinations."""
    filled = [cell.strip() for cell in cells if not is_missing(cell)]  # type: ignore[union-attr]
    if filled and sum(parse_list(cell) is not None for cell in filled) > 0.5 * len(filled):
        return "json"
    for separator in _SEPARATORS:
        joined = [cell for cell in filled if separator in cell]
        if len(joined) < max(2, 0.02 * len(filled)):
            continue
        parts = Counter(part.strip() for cell in filled for part in cell.split(separator))
        whole = Counter(filled)
        # A part that occurs only inside of one and the same cell is no label of its own.
        reused = [
            all(parts[part.strip()] > whole[cell] for part in cell.split(separator)) for cell in set(joined)
        ]
        if "" not in parts and len(parts) < len(whole) + 1 and sum(reused) > 0.5 * len(reused):
            return separator
    return None


def labels_of(cell: str | None, separator: str | None) -> list[str] | None:
    """A cell's labels; None where it has none to say."""
    if separator == "json":
        return None if cell is None else parse_list(cell.strip())
    if is_missing(cell):
        return None
    assert cell is not None
    if separator is None:
        return [cell]
    return [part for part in cell.split(separator) if part.strip()]
