"""What a command is, and the types of its arguments."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from xinfer.errors import XInferError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS_S = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        name: As it is typed.
        help: One line.
        configure: Adds the arguments.
        run: Does it, and answers with the exit code.
    """

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class UsageError(XInferError):
    """The arguments do not go together."""

    default_code: ClassVar[str] = "cli.usage"


def duration_s(text: str) -> float:
    """Seconds of ``90``, ``120s``, ``10m``, ``2h`` or ``30d``."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90, 120s, 10m, 2h or 30d")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def names(text: str) -> tuple[str, ...]:
    """The parts of ``fp32,int8``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def sizes(text: str) -> tuple[int, ...]:
    """The numbers of ``1,4,8``."""
    try:
        numbers = tuple(int(part) for part in names(text))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of sizes; write 1,4,8")
    return numbers


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1, or per cent: ``0.01``, ``1%``."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write 0.01 or 1%")
    return value


def did_you_mean(wrong: str, known: Iterable[str]) -> str | None:
    """A hint with the names that come closest, None where nothing does."""
    close = difflib.get_close_matches(wrong, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else None


def add_json(parser: argparse._ActionsContainer, what: str = "the same as JSON") -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help=what)
