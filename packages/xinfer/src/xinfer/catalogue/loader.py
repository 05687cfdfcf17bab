"""Reading the catalogue's files strictly."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from types import MappingProxyType

from xinfer import schema
from xinfer.catalogue.entry import Entry
from xinfer.errors import CatalogueError, DocumentError


@cache
def load() -> MappingProxyType[str, Entry]:
    """All entries by id, in the files' order.

    Raises:
        DocumentError: A file does not follow the schema, or an id appears twice, or a part does not exist.
    """
    folder = resources.files(__package__ or "xinfer.catalogue") / "data"
    entries: dict[str, Entry] = {}
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if file.name.endswith(".json"):
            for entry in read(file.read_bytes(), where=file.name):
                if entry.id in entries:
                    raise DocumentError(f"{file.name}: {entry.id!r} appears twice", value=entry.id)
                entries[entry.id] = entry
    for entry in entries.values():
        for part in entry.parts.values():
            if part not in entries:
                raise DocumentError(f"{entry.id}: there is no part {part!r}", value=part)
    return MappingProxyType(entries)


def read(data: bytes, *, where: str) -> list[Entry]:
    """The entries of one file: a list of objects.

    Raises:
        DocumentError: It does not follow the schema.
    """
    document = schema.loads(data, where=where)
    if not isinstance(document, list):
        raise DocumentError(f"{where}: expected a list of entries", value=type(document).__name__)
    return [schema.read(Entry, item, where=f"{where}[{index}]") for index, item in enumerate(document)]


def get(entry_id: str) -> Entry:
    """The entry of an id.

    Raises:
        CatalogueError: There is none; the hint names the closest ids.
    """
    entries = load()
    if entry_id in entries:
        return entries[entry_id]
    close = difflib.get_close_matches(entry_id, entries, n=3, cutoff=0.4)
    raise CatalogueError(
        f"the catalogue has no {entry_id!r}",
        value=entry_id,
        hint=f"did you mean {' or '.join(close)}?" if close else "xinfer list shows what there is",
    )


def find(*, task: str | None = None, vertical: str | None = None) -> Iterable[Entry]:
    """The entries of a task, a vertical, or both."""
    return [
        entry
        for entry in load().values()
        if task in (None, entry.task) and (vertical is None or vertical in entry.verticals)
    ]
