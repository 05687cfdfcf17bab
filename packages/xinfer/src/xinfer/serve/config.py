"""What a gateway is told to serve: the Hub's configuration, read strictly, and its copy on disk."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from xinfer.serve.errors import HubError

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
KEY_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """One endpoint as the Hub describes it (`wire.GatewayEndpoint`). Keys come as hashes only."""

    name: str
    engine_digest: str
    key_sha256: tuple[str, ...]
    public_key_pem: str


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """`wire.GatewayConfig`."""

    etag: str
    endpoints: tuple[EndpointConfig, ...]


def parse_config(data: bytes) -> GatewayConfig:
    """Read a configuration; unknown fields are a newer Hub's and ignored, known ones must be right.

    Raises:
        HubError: not such a document.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise HubError(f"the configuration is not JSON: {error}") from error
    etag = _field(document, "etag", str)
    endpoints = tuple(_endpoint(entry) for entry in _field(document, "endpoints", list))
    if len({endpoint.name for endpoint in endpoints}) != len(endpoints):
        raise HubError("the configuration names an endpoint twice")
    return GatewayConfig(etag=etag, endpoints=endpoints)


def write_config(path: Path, config: GatewayConfig) -> None:
    """Replace the copy on disk, atomically and durably; readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, orjson.dumps(asdict(config), option=orjson.OPT_INDENT_2))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a machine that stops, finds the old or the new content."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _endpoint(entry: Any) -> EndpointConfig:
    hashes = _field(entry, "key_sha256", list)
    if not all(isinstance(value, str) and KEY_SHA256.fullmatch(value) for value in hashes):
        raise HubError("the configuration has a key that is not a hex SHA-256")
    return EndpointConfig(
        name=_field(entry, "name", str, NAME),
        engine_digest=_field(entry, "engine_digest", str, DIGEST),
        key_sha256=tuple(hashes),
        public_key_pem=_field(entry, "public_key_pem", str),
    )


def _field(document: Any, name: str, kind: type, pattern: re.Pattern[str] | None = None) -> Any:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind) or (pattern and not pattern.fullmatch(str(value))):
        raise HubError(f"the configuration's '{name}' is missing or malformed", value=value)
    return value
