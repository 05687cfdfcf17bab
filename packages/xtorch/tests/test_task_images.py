"""The order and choice of held-out images."""

from __future__ import annotations

from itertools import pairwise

import pytest

from xtorch.picks import evenly
from xtorch.tasks.images import alternating


def test_every_beginning_of_the_order_has_the_shares_of_the_whole() -> None:
    items = [{"path": str(i), "label": int(i >= 80)} for i in range(100)]
    order = alternating(items)
    assert sorted(order, key=lambda item: int(item["path"])) == items
    assert [sum(item["label"] for item in order[:n]) for n in (10, 50, 100)] == [2, 10, 20]


@pytest.mark.parametrize("total", [1, 23, 24, 25, 47, 48, 100])
def test_a_few_are_spread_over_the_whole(total: int) -> None:
    picks = evenly(range(total), 24)
    assert len(picks) == len(set(picks)) == min(total, 24)
    assert picks == sorted(picks)
    assert (picks[0], picks[-1]) == (0, total - 1)
    gaps = {b - a for a, b in pairwise(picks)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_one_of_many_is_the_first() -> None:
    assert evenly("abc", 1) == ["a"]
    assert evenly("", 3) == []
