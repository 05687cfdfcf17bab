"""Strict reading and canonical writing of JSON documents as frozen dataclasses."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import types
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from xinfer.errors import DocumentError

T = TypeVar("T")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


@dataclasses.dataclass
class Variants:
    """Subclasses told apart by the value of one field; a base dataclass keeps it as `VARIANTS`."""

    field: str
    classes: dict[str, type] = dataclasses.field(default_factory=dict)

    def add(self, key: str) -> Callable[[type[T]], type[T]]:
        """Decorates the subclass that documents with this key are read as."""

        def register(cls: type[T]) -> type[T]:
            self.classes[key] = cls
            return cls

        return register


def read(
    cls: type[T], data: Any, *, where: str = "document", error: type[DocumentError] = DocumentError
) -> T:
    """Builds `cls` from decoded JSON: no missing, unknown or mistyped fields.

    Args:
        cls: A frozen dataclass whose fields are scalars, Literals, optionals, tuples, dicts or
            further dataclasses.
        data: What `json.loads` gave.
        where: Name of the document for messages.
        error: What to raise.

    Returns:
        An instance of `cls`.

    Raises:
        DocumentError: The document differs from the schema; `value` is the offending part.
    """
    value = _read(cls, data, where, error)
    assert isinstance(value, cls)
    return value


def dumps(document: Any) -> bytes:
    """Canonical JSON of a dataclass: sorted keys, UTF-8, no NaN, one final newline."""
    data = (
        dataclasses.asdict(document)
        if dataclasses.is_dataclass(document) and not isinstance(document, type)
        else document
    )
    text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def loads(data: bytes, *, where: str, error: type[DocumentError] = DocumentError) -> Any:
    """Decodes JSON text. Raises `error` for anything that is not JSON, NaN and duplicate keys included."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key appears twice")
        return result

    def no_constants(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text[:20]} is too large for a number")
        return number

    try:
        # Not json's own guess: UTF-16 is no document of ours.
        document = json.loads(
            data.decode(), object_pairs_hook=no_duplicates, parse_constant=no_constants, parse_float=finite
        )
        if b"\\u" in data:
            # Half of a surrogate pair is JSON but no text: it could never be written again.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as fault:
        raise error(f"{where} is not valid JSON: {str(fault)[:200]}", value=where) from fault
    return document


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _read(kind: Any, data: Any, where: str, error: type[DocumentError]) -> Any:
    def fail(expected: str) -> DocumentError:
        return error(f"{where}: expected {expected}, found {_show(data)}", value=data)

    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        variants: Variants | None = kind.__dict__.get("VARIANTS")
        if variants is not None:
            key = data.get(variants.field) if isinstance(data, dict) else None
            if not isinstance(key, str) or key not in variants.classes:
                known = ", ".join(sorted(variants.classes))
                raise error(f"{where}.{variants.field}: {_show(key)} is none of {known}", value=key)
            kind = variants.classes[key]
        return _read_dataclass(kind, data, where, error)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        (inner,) = (arg for arg in args if arg is not type(None))
        return _read(inner, data, where, error)
    if origin is Literal:
        # Equality alone would let 1.0 and true through as 1.
        if not any(type(data) is type(arg) and data == arg for arg in args):
            raise fail(" or ".join(map(repr, args)))
        return data
    if origin is tuple:
        if not isinstance(data, list):
            raise fail("a list")
        inner_kinds = [args[0]] * len(data) if args[-1] is Ellipsis else list(args)
        if len(inner_kinds) != len(data):
            raise fail(f"a list of {len(inner_kinds)}")
        return tuple(
            _read(inner, item, f"{where}[{index}]", error)
            for index, (inner, item) in enumerate(zip(inner_kinds, data, strict=True))
        )
    if origin is dict:
        if not isinstance(data, dict):
            raise fail("an object")
        return {key: _read(args[1], item, f"{where}.{key}", error) for key, item in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise fail("a number below 1e308") from None
    if not isinstance(data, kind) or (kind in (int, float) and isinstance(data, bool)):
        raise fail({str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind])
    return data


def _read_dataclass(cls: type, data: Any, where: str, error: type[DocumentError]) -> Any:
    if not isinstance(data, dict):
        raise error(f"{where}: expected an object, found {_show(data)}", value=data)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = sorted(data.keys() - fields.keys())
    if unknown:
        raise error(f"{where}: unknown field {unknown[0]!r}", value=unknown[0])
    missing = sorted(
        name
        for name, field in fields.items()
        if name not in data
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    if missing:
        raise error(f"{where}: field {missing[0]!r} is missing", value=missing[0])
    hints = _hints(cls)
    values = {name: _read(hints[name], item, f"{where}.{name}", error) for name, item in data.items()}
    try:
        return cls(**values)
    except (ValueError, TypeError, LookupError, ArithmeticError) as fault:
        # A class's own checks may stumble over content that no schema can exclude.
        raise error(f"{where}: {fault}", value=data) from fault


def _show(data: Any) -> str:
    # Bounded in depth and length, whatever a document holds.
    text = _REPR.repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
