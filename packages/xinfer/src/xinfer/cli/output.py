"""What commands print: pairs, tables and JSON on stdout, remarks on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def print_pairs(values: Mapping[str, object]) -> None:
    """Names and values, one a line; a None is left out, a list has a line per item."""
    shown = {name: value for name, value in values.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        for index, line in enumerate(value if isinstance(value, list) else [value]):
            print(f"{'' if index else name:{width}}  {line}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> None:
    """A table; the first `left` columns stand on the left, the others on the right."""
    lines = [list(header), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        parts = [
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(parts).rstrip())


def cell(value: object) -> str:
    """A table's cell: a dash for nothing, three significant digits or one decimal for numbers."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 10 else f"{value:,.1f}"
    return str(value)


def print_json(document: object) -> None:
    """One JSON document."""
    print(json.dumps(plain(document), indent=1))


def print_json_line(document: object) -> None:
    """One line of JSON, at once."""
    print(json.dumps(plain(document)), flush=True)


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays become lists, numbers that JSON lacks become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def note(message: str) -> None:
    """A remark for people, on stderr."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """A warning, on stderr."""
    note(f"warning: {message}")


def size(num_bytes: float) -> str:
    """``12.3 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def duration(seconds: float) -> str:
    """``45 s``, ``3:20`` or ``2:05:00``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
