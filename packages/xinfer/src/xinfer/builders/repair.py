"""Mixed precision: an INT8 candidate over the accuracy budget gets its worst layers back in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xinfer.builders.search import Search


def mixed_precision(search: Search) -> None:
    """Adds a repaired candidate where no INT8 candidate holds the budget."""
