"""Held-out images for builds, decoded as they will be when the engine serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xinfer.preproc import decode_image

Item = Mapping[str, Any]
"""An entry of ``splits.json``: ``path`` relative to the dataset's root, and ``label``."""


class ImageItems:
    """Images of a dataset as feeds.

    Args:
        root: The dataset's folder.
        input_name: The model's input.
        min_side: As in the task spec.
    """

    def __init__(self, root: Path, input_name: str, min_side: int) -> None:
        self._root = root
        self._input_name = input_name
        self._min_side = min_side

    def take(
        self, items: Sequence[Item], *, max_bytes: int, max_num: int | None = None
    ) -> tuple[list[Item], list[dict[str, np.ndarray]]]:
        """Decodes items in order until there is enough.

        Returns:
            The items taken, and for each the model's input ``{name: uint8 [1,H,W,3]}``.
        """
        taken: list[Item] = []
        feeds: list[dict[str, np.ndarray]] = []
        for item in items[:max_num]:
            image_HW3 = decode_image((self._root / item["path"]).read_bytes(), min_side=self._min_side)
            max_bytes -= image_HW3.nbytes
            if taken and max_bytes < 0:
                break
            taken.append(item)
            feeds.append({self._input_name: image_HW3[None]})
        return taken, feeds

    def encoded(self, items: Sequence[Item]) -> list[bytes]:
        return [(self._root / item["path"]).read_bytes() for item in items]


def alternating(items: Sequence[Item]) -> list[Item]:
    """All items, such that every beginning of the list has the labels in about the whole's shares."""
    by_label: dict[Any, list[Item]] = {}
    for item in items:
        by_label.setdefault(item["label"], []).append(item)
    placed = [
        ((index + 0.5) / len(group), str(label), item)
        for label, group in by_label.items()
        for index, item in enumerate(group)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]


def every(items: Sequence[Item], num: int) -> list[Item]:
    """About `num` items, evenly spread."""
    return list(items[:: max(1, len(items) // num)][:num])
