"""A few of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(items: Sequence[T], num: int) -> list[T]:
    """At most `num` of the items in their order, evenly spread, the first and the last among them.

    Args:
        items: Any number; ``range(total)`` gives positions.
        num: At least 1; of 1, the first is taken.
    """
    if len(items) <= num:
        return list(items)
    step = (len(items) - 1) / max(1, num - 1)
    return [items[round(index * step)] for index in range(num)]
