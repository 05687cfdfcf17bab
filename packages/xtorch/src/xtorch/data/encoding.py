"""Bytes of text files into text: which encoding they are in, and whether they are in several."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Controls that no text has; tab, line ends, form feed and escape (of ISO 2022) are not among them.
_CONTROL = frozenset((*range(1, 9), 11, *range(14, 27), *range(28, 32), 127))
_SAMPLE_BYTES = 1 << 16
_MIN_CONFIDENT_BYTES = 32
_FALLBACK = "cp1252"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Text, and how it was read.

    Attributes:
        text: Line ends are ``\\n``.
        encoding: Name of the codec; of a mixed file, the one of most lines.
        mixed_lines: Numbers, from 1, of lines that are in another encoding than the others.
        num_replaced: Characters that no encoding explains, now U+FFFD.
    """

    text: str
    encoding: str
    mixed_lines: tuple[int, ...] = ()
    num_replaced: int = 0


def decode(data: bytes) -> Decoded | None:
    """Text of unknown encoding.

    A byte order mark decides; then UTF-8, if all bytes are; then UTF-16 without a mark; then, line by line,
    UTF-8 where it fits and the most likely older encoding elsewhere (files joined from two sources).

    Returns:
        The text; None where the bytes are no text.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _whole(data, name)
    if b"\0" in data[:_SAMPLE_BYTES]:
        return _utf16_without_mark(data)
    if sum(byte in _CONTROL for byte in data[:_SAMPLE_BYTES]) > 0.02 * min(len(data), _SAMPLE_BYTES):
        return None
    try:
        return Decoded(text=_newlines(data.decode("utf-8")), encoding="utf-8")
    except UnicodeDecodeError:
        return _by_line(data)


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _whole(data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, errors="replace")
    return Decoded(
        text=_newlines(text),
        encoding=encoding.removesuffix("-sig"),
        num_replaced=text.count("\ufffd"),
    )


def _utf16_without_mark(data: bytes) -> Decoded | None:
    """UTF-16 of mostly Latin text has a zero in every other byte; anything else with zeros is no text."""
    sample = data[:_SAMPLE_BYTES]
    even, odd = sample[::2].count(0) / len(sample[::2]), sample[1::2].count(0) / max(1, len(sample[1::2]))
    if odd > 0.4 and even < 0.05:
        return _whole(data, "utf-16-le")
    if even > 0.4 and odd < 0.05:
        return _whole(data, "utf-16-be")
    return None if sample.count(0) > 0.01 * len(sample) else decode(data.replace(b"\0", b""))


def _by_line(data: bytes) -> Decoded:
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    texts: list[str | None] = []
    utf8: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.decode("utf-8"))
            if not line.isascii():
                utf8.append(number)
        except UnicodeDecodeError:
            texts.append(None)
    others = [number for number, text in enumerate(texts, start=1) if text is None]
    legacy = _legacy(b"\n".join(lines[number - 1] for number in others))
    if utf8 and legacy not in ("cp1252", "latin_1"):
        # Chance makes some lines of a multi-byte encoding valid UTF-8, and hardly ever most of them.
        whole = data.decode(legacy, errors="replace")
        if len(utf8) < len(others) and "\ufffd" not in whole:
            return Decoded(text=_newlines(whole), encoding=legacy)
    replaced = 0
    for number in others:
        text = lines[number - 1].decode(legacy, errors="replace")
        replaced += text.count("\ufffd")
        texts[number - 1] = text
    rare, encoding = (others, "utf-8") if len(utf8) >= len(others) else (utf8, legacy)
    return Decoded(
        text="\n".join(text or "" for text in texts),
        encoding=encoding,
        mixed_lines=tuple(rare),
        num_replaced=replaced,
    )


def _legacy(sample: bytes) -> str:
    """The most likely encoding of bytes that are not UTF-8."""
    from charset_normalizer import from_bytes

    if sum(byte > 127 for byte in sample) < _MIN_CONFIDENT_BYTES:
        # Too little to guess from: the encoding of most old files in Western languages.
        return _FALLBACK
    best = from_bytes(sample[:_SAMPLE_BYTES]).best()
    # It often names a relative of what Windows and the web mean by it.
    known = {"latin_1": _FALLBACK, "cp1250": "cp1250", "big5hkscs": "big5hkscs"}
    return _FALLBACK if best is None else known.get(best.encoding, best.encoding)
