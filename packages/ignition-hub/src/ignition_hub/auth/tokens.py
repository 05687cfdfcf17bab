"""Opaque tokens: a prefix that says what they are, and 32 random bytes. Kept as SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

Prefix = Literal["ign", "igns", "ignu", "ignj", "igna", "igng", "igne"]
"""API key, browser session, setup link, job, agent, gateway, endpoint."""


def new_token(prefix: Prefix) -> str:
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def sha256_hex(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def shown_prefix(token: str) -> str:
    """As much of a token as may be shown later on."""
    return token[:9]
