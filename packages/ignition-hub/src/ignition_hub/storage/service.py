"""Which blobs an organisation has."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from ignition_hub.db.engine import now
from ignition_hub.storage.models import BlobRow

_BATCH = 500
"""Values in one ``IN (…)``: below SQLite's limit on parameters."""


def sizes(session: Session, organisation_id: str, digests: Iterable[str]) -> dict[str, int]:
    """Bytes of those of `digests` that are there."""
    wanted = list(dict.fromkeys(digests))
    found: dict[str, int] = {}
    for i in range(0, len(wanted), _BATCH):
        rows = session.execute(
            select(BlobRow.digest, BlobRow.size_bytes).where(
                BlobRow.organisation_id == organisation_id, BlobRow.digest.in_(wanted[i : i + _BATCH])
            )
        )
        found.update((digest, size_bytes) for digest, size_bytes in rows)
    return found


def missing(session: Session, organisation_id: str, digests: Iterable[str]) -> list[str]:
    """Those of `digests` that are not there, each once, in order."""
    wanted = list(dict.fromkeys(digests))
    there = sizes(session, organisation_id, wanted)
    return [digest for digest in wanted if digest not in there]


def record(session: Session, organisation_id: str, digest: str, size_bytes: int) -> None:
    """The blob is in the store; saying so again changes nothing."""
    if session.get(BlobRow, (organisation_id, digest)) is None:
        session.add(
            BlobRow(
                organisation_id=organisation_id,
                digest=digest,
                size_bytes=size_bytes,
                created_at=now(session),
            )
        )
