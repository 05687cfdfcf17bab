"""The order and choice of held-out images."""

from __future__ import annotations

from xtorch.tasks.images import alternating, every


def test_every_beginning_of_the_order_has_the_shares_of_the_whole() -> None:
    items = [{"path": str(i), "label": int(i >= 80)} for i in range(100)]
    order = alternating(items)
    assert sorted(order, key=lambda item: int(item["path"])) == items
    assert [sum(item["label"] for item in order[:n]) for n in (10, 50, 100)] == [2, 10, 20]
    assert len(every(order, 24)) == 24
    assert every(order[:3], 24) == order[:3]
