"""Lists of classes beside a dataset: names, and which value or colour of a mask each has.

Known are text and CSV files called ``classes``, ``labels``, ``labelmap``, ``class_dict``, ``_classes``, ...
with a class a line: ``crack``; ``1 crack``; ``crack,1``; ``64 128 64 animal``; ``animal,64,128,64``; CVAT's
``animal:64,128,64::``. And JSON: ``["background", "crack"]``, ``{"1": "crack"}``, ``{"crack": 1}``,
``[{"id": 1, "name": "crack"}]``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from xtorch.data.annotations.base import decode_text

_STEMS = frozenset(
    {
        *(
            "classes",
            "_classes",
            "class",
            "class_names",
            "classnames",
            "class_dict",
            "class_list",
            "categories",
        ),
        *("label", "labels", "label_names", "labelnames", "labelmap", "label_map", "label_colors", "names"),
        *("colormap", "color_map", "palette", "legend"),
    }
)
_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json"})
_TITLES = frozenset(
    {
        *(
            "name",
            "class",
            "classes",
            "label",
            "labels",
            "value",
            "id",
            "index",
            "r",
            "g",
            "b",
            "red",
            "green",
        ),
        *("blue", "color", "colour", "color_rgb", "pixel", "parts", "actions", "pixel value"),
    }
)
MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ClassEntry:
    """A class as it is listed.

    Attributes:
        value: Its grey value or palette index.
        colour: 0xRRGGBB. Where both are None, its place in the list counts.
    """

    name: str
    value: int | None = None
    colour: int | None = None


def is_class_list(path: str) -> bool:
    """Whether a file's name says that it lists classes."""
    pure = PurePosixPath(path)
    return pure.stem.lower() in _STEMS and pure.suffix.lower() in _SUFFIXES


def read_class_list(path: str, data: bytes) -> list[ClassEntry]:
    """The classes of a file; empty where it lists none.

    Args:
        path: Its name says the format.
        data: At most `MAX_BYTES`.
    """
    if len(data) > MAX_BYTES:
        return []
    try:
        text = decode_text(data)
        entries = _of_json(json.loads(text)) if path.lower().endswith(".json") else _of_lines(text)
    except (ValueError, RecursionError):
        return []
    names = [entry.name for entry in entries]
    return entries if len(set(names)) == len(names) else []


def _of_lines(text: str) -> list[ClassEntry]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for parse in (_coloured, _valued):
        entries = [parse(line) for line in lines if not _is_title(line)]
        found = [entry for entry in entries if entry is not None]
        if found and len(found) == len(entries) and len({entry.name for entry in found}) == len(found):
            return found
    return [ClassEntry(name=line) for line in lines if not _is_title(line)]


def _is_title(line: str) -> bool:
    cells = [cell.strip().lower() for cell in re.split(r"[,;:\t]", line) if cell.strip()]
    return len(cells) > 1 and all(cell in _TITLES for cell in cells)


def _coloured(line: str) -> ClassEntry | None:
    """``animal,64,128,64``, ``64 128 64 animal``, ``animal:64,128,64::``."""
    number = r"(\d{1,3})"
    gap = r"[,;:\s]+"
    before = re.fullmatch(rf"{number}{gap}{number}{gap}{number}{gap}(.+)", line)
    after = re.fullmatch(rf"(.+?){gap}{number}{gap}{number}{gap}{number}[,;:\s]*", line)
    if before is not None:
        *parts, name = before.groups()
    elif after is not None:
        name, *parts = after.groups()
    else:
        return None
    red, green, blue = map(int, parts)
    if max(red, green, blue) > 255:
        return None
    return ClassEntry(name=name.strip(), colour=red << 16 | green << 8 | blue)


def _valued(line: str) -> ClassEntry | None:
    """``1 crack``, ``1: crack``, ``crack,1``; a name may end with a number where a space precedes it."""
    before = re.fullmatch(r"(\d{1,5})[,;:\s]+(\D.*)", line)
    after = re.fullmatch(r"(.+?)\s*[,;:\t]\s*(\d{1,5})", line)
    if before is not None:
        return ClassEntry(name=before[2].strip(), value=int(before[1]))
    if after is not None:
        return ClassEntry(name=after[1].strip(), value=int(after[2]))
    return None


def _of_json(document: Any) -> list[ClassEntry]:
    if isinstance(document, dict):
        if all(isinstance(name, str) and str(key).isdecimal() for key, name in document.items()):
            return [ClassEntry(name=name.strip(), value=int(key)) for key, name in document.items()]
        return [_json_entry(str(name), what) for name, what in document.items()]
    if isinstance(document, list) and all(isinstance(item, str) for item in document):
        return [ClassEntry(name=item.strip()) for item in document]
    if isinstance(document, list) and all(isinstance(item, dict) for item in document):
        return [
            _json_entry(
                str(item["name"]), item.get("color", item.get("colour", item.get("id", item.get("value"))))
            )
            for item in document
            if "name" in item
        ]
    return []


def _json_entry(name: str, what: Any) -> ClassEntry:
    """
    Raises:
        ValueError: `what` is no value and no colour.
    """
    if isinstance(what, int) and not isinstance(what, bool) and 0 <= what <= 0xFFFF:
        return ClassEntry(name=name.strip(), value=what)
    if (
        isinstance(what, list)
        and len(what) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in what)
    ):
        return ClassEntry(name=name.strip(), colour=what[0] << 16 | what[1] << 8 | what[2])
    raise ValueError(f"{what!r} is no value and no colour")
