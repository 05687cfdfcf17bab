"""Marked places of a text, as HTML or for a terminal."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from html import escape
from typing import Literal

_ANSI = (36, 33, 35, 32, 34, 31)


def highlight(
    text: str, spans: Iterable[tuple[int, int, str]], *, style: Literal["html", "ansi"] = "html"
) -> str:
    """A text with places marked and named.

    Args:
        text: The text.
        spans: Start, end (in characters) and name of each place; not overlapping.
        style: ``html``: a fragment that needs no style sheet; ``ansi``: escape sequences of terminals.

    Returns:
        The marked text; all of it is escaped.
    """
    parts, position = [], 0
    plain = escape if style == "html" else _printable
    for start, end, name in sorted(spans):
        parts += [plain(text[position:start]), _marked(plain(text[start:end]), plain(name), style)]
        position = end
    parts.append(plain(text[position:]))
    joined = "".join(parts)
    return f'<p style="white-space:pre-wrap;line-height:1.8">{joined}</p>' if style == "html" else joined


def _marked(text: str, name: str, style: str) -> str:
    # The same name has the same colour everywhere.
    number = zlib.crc32(name.encode())
    if style == "ansi":
        colour = _ANSI[number % len(_ANSI)]
        return f"\x1b[{colour};1m{text}\x1b[0m" + (f"\x1b[{colour}m[{name}]\x1b[0m" if name else "")
    label = f' <small style="opacity:.7">{name}</small>' if name else ""
    return (
        f'<mark style="background:hsl({number % 360} 80% 85%);padding:.1em .3em;border-radius:.3em">'
        f"{text}{label}</mark>"
    )


def _printable(text: str) -> str:
    """Without control characters: a text must not steer the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
