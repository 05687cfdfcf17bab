"""How commands speak: tables for people, JSON for programs, and exit codes that mean something."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter
from rich.console import Console, RenderableType

from ignition_client.errors import (
    ClientError,
    HubUnreachableError,
    InputError,
    NotFoundError,
    NotLoggedInError,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]


_PIPE: dict[str, Any] = {"width": 400, "soft_wrap": True}


class ExitCode(IntEnum):
    """What a command's exit status says."""

    OK = 0
    FAILED = 1
    """The work failed, or the Hub refused."""
    USAGE = 2
    """Wrong arguments, or a local file that cannot be used."""
    NO_HUB = 3
    """Not reachable, or not logged in."""
    NOT_FOUND = 4
    INTERRUPTED = 130


def exit_code_of(error: ClientError) -> ExitCode:
    """The exit status that an error stands for."""
    if isinstance(error, HubUnreachableError | NotLoggedInError):
        return ExitCode.NO_HUB
    if isinstance(error, NotFoundError):
        return ExitCode.NOT_FOUND
    if isinstance(error, InputError):
        return ExitCode.USAGE
    return ExitCode.FAILED


def problem_of(error: ClientError) -> dict[str, Any]:
    """An error as programs read it."""
    names = ("code", "message", "value", "hint", "request_id")
    return {name: getattr(error, name) for name in names}


class Output:
    """Where a command's answer goes: stdout; progress and remarks go to stderr."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        # A pipe has no width: tables get enough, and text is not wrapped at all.
        self.console = Console(**({} if sys.stdout.isatty() else _PIPE))
        self.notes = Console(stderr=True, **({} if sys.stderr.isatty() else _PIPE))

    def answer(self, value: Any, render: Callable[[Any], RenderableType]) -> None:
        """Prints `value`: JSON of it, or what `render` makes of it."""
        if self.as_json:
            self.json(value)
        else:
            self.console.print(render(value), highlight=False)

    def json(self, value: Any) -> None:
        data = TypeAdapter(Any).dump_python(value, mode="json")
        print(json.dumps(data, indent=2, ensure_ascii=False), flush=True)

    def say(self, text: str) -> None:
        """A line of the answer for people; programs do not get it."""
        if not self.as_json:
            self.console.print(text, highlight=False)

    def note(self, text: str) -> None:
        """A remark beside the answer."""
        if not self.as_json:
            self.notes.print(text, highlight=False)

    def error(self, error: ClientError) -> None:
        if self.as_json:
            self.json({"error": problem_of(error)})
            return
        self.notes.print(f"[red bold]Error:[/] {_plain(error.message)}", highlight=False)
        if error.value is not None and str(error.value) not in error.message:
            self.notes.print(f"  value: {_plain(str(error.value)[:500])}", highlight=False)
        if error.hint:
            self.notes.print(f"  hint: {_plain(error.hint)}", highlight=False)
        self.notes.print(f"  code: {error.code}", style="dim", highlight=False)
        if error.request_id:
            self.notes.print(f"  request: {error.request_id}", style="dim", highlight=False)


def _plain(text: str) -> str:
    """Text from elsewhere is not markup."""
    return text.replace("[", r"\[")


def parse_duration_s(text: str) -> float:
    """``90``, ``90s``, ``10m``, ``1h30m`` in seconds.

    Raises:
        typer.BadParameter: It is none of these, or not positive.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    total_s, number = 0.0, ""
    try:
        for char in text.strip().lower():
            if char in units:
                total_s += float(number) * units[char]
                number = ""
            else:
                number += char
        total_s += float(number) if number else 0.0
    except ValueError:
        total_s = 0.0
    if not 0 < total_s <= 86_400:
        raise typer.BadParameter(f"{text!r} is not a duration such as 90s, 10m or 1h30m (at most 24h)")
    return total_s


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """``["horizon=14", "candidates=[\"memory\"]"]`` by name; values are JSON, and text where they are not.

    Raises:
        typer.BadParameter: One has no name or no ``=``.
    """
    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE, such as horizon=14")
        try:
            settings[name.strip()] = json.loads(value)
        except ValueError:
            settings[name.strip()] = value
    return settings


def parse_history(text: str) -> list[float | None]:
    """A series' values: numbers between commas, spaces or line breaks; the name of a file of such; ``-`` for
    standard input. Words such as ``nan`` are gaps.

    Raises:
        typer.BadParameter: There is a word that is neither, or nothing at all.
        InputError: The file cannot be read.
    """
    source = text
    if text == "-":
        source = sys.stdin.read()
    elif _is_file(text):
        try:
            source = Path(text).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("The file cannot be read as text.", value=text) from error
    values: list[float | None] = []
    for word in source.replace(",", " ").replace(";", " ").split():
        if word.lower() in ("nan", "na", "null", "none"):
            values.append(None)
            continue
        try:
            values.append(float(word))
        except ValueError:
            raise typer.BadParameter(f"{word[:40]!r} is no number", param_hint="--history") from None
    if not values:
        raise typer.BadParameter("there are no numbers", param_hint="--history")
    return values


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a file's name can be
        return False
