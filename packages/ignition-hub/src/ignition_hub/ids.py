"""Identifiers of rows."""

from __future__ import annotations

import secrets


def new_id() -> str:
    """16 hexadecimal digits: 64 random bits."""
    return secrets.token_hex(8)
