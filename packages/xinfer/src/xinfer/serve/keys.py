"""Endpoint keys: how a request carries one and how it is compared. Only SHA-256 digests are kept."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping


def presented_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key in a request's headers (lower-case names), or None.

    `Authorization: Bearer`, `X-API-Key`, or HTTP Basic with the key as password, which is what
    tritonclient's `BasicAuth` plugin sends.
    """
    scheme, _, value = headers.get(b"authorization", b"").strip().partition(b" ")
    value = value.strip()
    if scheme.lower() == b"bearer" and value:
        return value
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2] or None
        except binascii.Error:
            return None
    return headers.get(b"x-api-key", b"").strip() or None


def key_digest(key: bytes) -> str:
    """Hex SHA-256 of a key: 256 random bits need no slow hash."""
    return hashlib.sha256(key).hexdigest()


def accepts(digests: Iterable[str], key: bytes) -> bool:
    """Whether `key` is one of the keys with these digests, in time that does not depend on which."""
    digest = key_digest(key)
    return sum(hmac.compare_digest(digest, known) for known in digests) > 0
