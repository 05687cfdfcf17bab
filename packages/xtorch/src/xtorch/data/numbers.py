"""Texts into numbers, as spreadsheets of any country write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_EMPTY = frozenset(
    {"", "na", "n/a", "nan", "null", "none", "-", "--", "?", "#n/a", "#value!", "nil", "missing"}
)
_STRIP = re.compile(r"[\s\u00a0\u202f'$€£¥₹]|(?:USD|EUR|GBP|CHF)")
_DECIMAL_COMMA = re.compile(r"^[-+(]?(\d{1,3}(\.\d{3})+|\d+),(\d+)\)?%?$")
_THOUSANDS_COMMA = re.compile(r"^[-+(]?\d{1,3}(,\d{3})+(\.\d+)?\)?%?$")
_THOUSANDS_POINT = re.compile(r"^[-+(]?\d{1,3}(\.\d{3}){2,}\)?%?$")


def parse_numbers(cells: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a column.

    Thousands separators, decimal commas, currency signs, per cent and brackets for negative numbers are
    understood; a comma is decimal where any cell of the column can only be read so.

    Returns:
        Values float64, NaN where there is none, and bool: cells that hold something which is no number.
    """
    values = np.full(len(cells), np.nan)
    odd: list[int] = []
    for index, cell in enumerate(cells):
        if cell is None:
            continue
        try:
            values[index] = float(cell) if "_" not in cell else np.nan
        except ValueError:
            odd.append(index)
    bad = np.zeros(len(cells), bool)
    if odd:
        texts = {index: _STRIP.sub("", cells[index] or "") for index in odd}
        decimal_comma = any(
            _DECIMAL_COMMA.match(text) and not _THOUSANDS_COMMA.match(text) for text in texts.values()
        )
        for index, text in texts.items():
            if text.lower() in _EMPTY:
                continue
            number = _number(text, decimal_comma=decimal_comma)
            if number is None:
                bad[index] = True
            else:
                values[index] = number
    infinite = np.isinf(values)
    values[infinite], bad[infinite] = np.nan, True
    return values, bad


def _number(text: str, *, decimal_comma: bool) -> float | None:
    negative = text.startswith("(") and text.endswith(")")
    text = text.strip("()").removesuffix("%")
    if decimal_comma:
        text = text.replace(".", "").replace(",", ".")
    elif _THOUSANDS_COMMA.match(text):
        text = text.replace(",", "")
    elif _THOUSANDS_POINT.match(text):
        text = text.replace(".", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return -value if negative else value
