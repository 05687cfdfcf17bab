"""The database: one SQLAlchemy path for SQLite and PostgreSQL."""

from ignition_hub.db.base import Base, UtcDateTime
from ignition_hub.db.engine import Database

__all__ = ["Base", "Database", "UtcDateTime"]
