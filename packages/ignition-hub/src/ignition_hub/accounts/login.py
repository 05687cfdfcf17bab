"""Signing in with a password: rate-limited, and slow outside of any transaction."""

from __future__ import annotations

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from ignition_hub.accounts import service
from ignition_hub.db import Database
from ignition_hub.errors import RateLimitedError

_PER_ACCOUNT = parse("10/minute")
_PER_ADDRESS = parse("60/minute")


class PasswordLogin:
    """Counts attempts by account and by network address, in this process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check(self, email: str, password: str, *, address: str) -> None:
        """
        Raises:
            RateLimitedError: Too many attempts.
            NotAuthenticatedError: Wrong.
        """
        account = email.strip().lower()[:320]
        by_account = self._limiter.hit(_PER_ACCOUNT, "account", account)
        if not self._limiter.hit(_PER_ADDRESS, "address", address) or not by_account:
            raise RateLimitedError("There were too many attempts to sign in.")
        with self._db.read() as session:
            password_hash = service.password_hash_of(session, account)
        service.check_password(password, password_hash)
