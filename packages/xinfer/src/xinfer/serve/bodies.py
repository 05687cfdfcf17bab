"""What a predict request's body says, by the kind of input that the endpoint's task takes. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from xinfer.serve.errors import ProblemError

MAX_MANY = 256
"""Texts or series in one request."""
_EXAMPLES = {
    "text": 'Send text as text/plain, or JSON: {"text": "..."} or {"texts": ["...", "..."]}.',
    "series": 'Send JSON: {"history": [12, 14.5, null, 13]}, oldest first; or {"histories": [[...], [...]]}.',
    "image": "Send the image file's bytes as the request's body.",
    "audio": "Send the sound file's bytes (WAV) as the request's body.",
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of one request; `many` says whether they came as a list, and the answer is one too."""

    items: list[Any]
    many: bool


def hint_of(kind: str) -> str | None:
    """How to send an input of this kind."""
    return _EXAMPLES.get(kind)


def read(kind: str, body: bytes, content_type: str) -> Inputs:
    """The inputs in a body.

    Args:
        kind: Of the task's input: "image", "text", "series" or "audio".
        body: Not empty.
        content_type: The header's value; "" where there is none.

    Raises:
        ProblemError: The body is not what the kind asks for.
    """
    if kind == "text":
        return _texts(body, content_type)
    if kind == "series":
        return _series(body)
    return Inputs(items=[body], many=False)


def _texts(body: bytes, content_type: str) -> Inputs:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        return _of_json(_object(body, "text"), "text", "text", "texts")
    if media_type != "text/plain" and body.lstrip().startswith(b"{"):
        # Clients forget the header; a text that happens to be such JSON can be sent as text/plain.
        try:
            return _of_json(_object(body, "text"), "text", "text", "texts")
        except ProblemError:
            pass
    try:
        return Inputs(items=[body.decode("utf-8-sig")], many=False)
    except UnicodeDecodeError as error:
        raise _invalid("text", f"The body is not UTF-8: byte {error.start} does not belong there.") from error


def _series(body: bytes) -> Inputs:
    found = _object(body, "series")
    if isinstance(found, list):
        found = {"history": found}
    return _of_json(found, "series", "history", "histories")


def _object(body: bytes, kind: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _invalid(kind, f"The body is not valid JSON: {error}.") from error


def _of_json(found: Any, kind: str, one: str, many: str) -> Inputs:
    if not isinstance(found, dict):
        raise _invalid(kind, "The body must be a JSON object.")
    if unknown := sorted(found.keys() - {one, many}):
        raise _invalid(kind, f"There is no field '{unknown[0][:40]}'.")
    if len(found) != 1:
        raise _invalid(kind, f"The body must have either '{one}' or '{many}'.")
    if one in found:
        return Inputs(items=[_checked(found[one], kind, one)], many=False)
    items = found[many]
    if not isinstance(items, list) or not 0 < len(items) <= MAX_MANY:
        raise _invalid(kind, f"'{many}' must be a list of 1 to {MAX_MANY}.")
    return Inputs(items=[_checked(item, kind, many) for item in items], many=True)


def _checked(item: Any, kind: str, name: str) -> Any:
    if kind == "text":
        if not isinstance(item, str):
            raise _invalid(kind, f"'{name}' must hold text.")
    elif not isinstance(item, list) or any(
        value is not None and type(value) not in (int, float) for value in item
    ):
        raise _invalid(kind, f"'{name}' must hold numbers, and null where one is missing.")
    return item


def _invalid(kind: str, detail: str) -> ProblemError:
    return ProblemError("body.invalid", detail, hint=_EXAMPLES[kind])
