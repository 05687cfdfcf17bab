"""Password hashing with argon2 (parameters of RFC 9106's low-memory profile: the library's default)."""

from __future__ import annotations

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ignition_hub.errors import BadRequestError

MIN_LENGTH, MAX_LENGTH = 8, 200
_hasher = PasswordHasher()
_UNKNOWN_USER = _hasher.hash("of nobody")


def hash_password(password: str) -> str:
    """
    Raises:
        BadRequestError: It is too short or too long.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise BadRequestError(
            f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters.", hint="A few words make a good one."
        )
    return _hasher.hash(password.encode("utf-8", "surrogatepass"))


def verify_password(password: str, password_hash: str | None) -> bool:
    """Takes the same time for a user that does not exist or has no password."""
    try:
        _hasher.verify(password_hash or _UNKNOWN_USER, password[:MAX_LENGTH].encode("utf-8", "surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None
