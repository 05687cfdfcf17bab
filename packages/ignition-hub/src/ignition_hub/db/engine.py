"""Opening the database, transactions, and the database's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ignition_hub.errors import ConflictError

_BUSY_TIMEOUT_S = 30


class Database:
    """A database and its two kinds of transaction.

    `read()` sees a consistent state; `write()` may change it. On SQLite a writing transaction takes the
    write lock at its start (``BEGIN IMMEDIATE``), so it waits for its turn instead of failing half-way.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = sa.create_engine(
                self.url, connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_S}
            )
            sa.event.listen(self.engine, "connect", _prepare_sqlite_connection)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = sa.create_engine(self.url, pool_pre_ping=True)
        self._writer = self.engine.execution_options(ignition_immediate=True)
        self.on_commit: Callable[[Iterable[str]], None] = lambda _topics: None
        """Told the topics that a commit's `touch` calls named."""

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Commits at the end of the block, rolls back when it raises.

        Raises:
            ConflictError: Another transaction was quicker with what may be there only once.
        """
        with Session(self._writer, expire_on_commit=False) as session:
            try:
                with session.begin():
                    yield session
            except IntegrityError as error:
                raise ConflictError(
                    "Somebody else made the same change at the same moment.", hint="Try again."
                ) from error
            self.on_commit(session.info.get("topics", ()))

    def migrate(self, revision: str = "head", *, down: bool = False) -> None:
        """Bring the schema up, or down, to `revision` (down to ``base`` removes everything)."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._writer.begin() as connection:
            config.attributes["connection"] = connection
            if down:
                command.downgrade(config, revision)
            else:
                command.upgrade(config, revision)

    def close(self) -> None:
        self.engine.dispose()


def touch(session: Session, *topics: str) -> None:
    """Wake those who wait for `topics` once this transaction is committed."""
    session.info.setdefault("topics", set()).update(topics)


def now(session: Session) -> datetime:
    """The database's clock: the only one that leases and expiry are decided by."""
    bind = session.get_bind()
    if bind.dialect.name == "sqlite":
        # The database file is on this machine: its clock is this machine's.
        return datetime.fromtimestamp(time.time(), UTC)
    moment: datetime = session.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    return moment.astimezone(UTC)


def _prepare_sqlite_connection(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the "begin" event says how a transaction starts
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_S * 1000}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("ignition_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
