"""The file of a trust policy: its format, reading it safely, writing it whole."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from xinfer import schema
from xinfer.errors import SignatureError

MAX_POLICY_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PublisherDocument:
    """One of `publishers`; times as ISO 8601."""

    name: str
    keys: tuple[str, ...]
    models: tuple[str, ...]
    not_before: str | None = None
    not_after: str | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyDocument:
    """The file."""

    schema_version: Literal[1]
    unsigned: Literal["refuse", "allow"] = "refuse"
    revoked: tuple[str, ...] = ()
    publishers: tuple[PublisherDocument, ...] = ()


def read(file: Path) -> PolicyDocument:
    """Reads a policy's document strictly.

    Raises:
        OSError, ValueError: It cannot be read, or is not the format's text.
        DocumentError: It differs from the schema.
        SignatureError: Others may write it (``signature.policy``).
    """
    data = read_private(file)
    if file.suffix == ".json":
        return schema.read(PolicyDocument, schema.loads(data, where=file.name), where="trust policy")
    document = tomllib.loads(data.decode())
    publishers = document.get("publishers")
    for publisher in publishers if isinstance(publishers, list) else ():
        for name in ("not_before", "not_after"):
            if isinstance(publisher, dict) and isinstance(publisher.get(name), datetime):
                publisher[name] = publisher[name].isoformat()
    return schema.read(PolicyDocument, document, where="trust policy")


def write(file: Path, document: dict[str, Any]) -> None:
    """Writes a policy's document, whole or not at all, with mode 0600."""
    text = json.dumps(document, indent=1) + "\n" if file.suffix == ".json" else to_toml(document)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp creates with mode 0600.
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """One editor at a time: a lost update could lose a revocation."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with file.with_name(f".{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_private(file: Path) -> bytes:
    """Reads a file that only its owner may write; else whoever may write it decides whom to trust."""
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SignatureError(
                f"{file.name} may be written by others", code="signature.policy", value=str(file),
                hint=f"chmod go-w {file}",
            )  # fmt: skip
        data = opened.read(MAX_POLICY_BYTES + 1)
    if len(data) > MAX_POLICY_BYTES:
        raise ValueError(f"{file.name} is too large")
    return data


def to_toml(document: dict[str, Any]) -> str:
    """A policy's document as TOML."""
    document = dict(document)
    tables = document.pop("publishers")
    lines = [f"{name} = {_toml_value(value)}" for name, value in document.items()]
    for table in tables:
        lines += ["", "[[publishers]]", *(f"{name} = {_toml_value(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, str) and value.startswith("-----BEGIN"):
        return f"'''\n{value}'''"
    # JSON's strings and whole numbers are TOML's, apart from DEL, which JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
