"""What the playground offers to try: held-out images, texts or series of the run, several labels in turn."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from ignition_client import wire
from ignition_hub.web.render import dataset_file, thumbnail

NUM_SAMPLES = 16
NUM_TEXTS = 6
NUM_VALUES = 500
OBSERVED = ("observed", "history", "past")
"""Names of the line that shows what happened."""


def samples(run: wire.Run, report: Mapping[str, Any] | None, kind: str) -> list[dict[str, Any]]:
    """
    Args:
        run: Gives the dataset that images are shown from.
        report: Its ``held_out`` names the samples.
        kind: What the endpoint is asked about: "image", "text" or "series".

    Returns:
        ``{"label", "path", "thumbnail", "file"}`` of images, ``{"label", "text"}``, ``{"label", "history"}``.
    """
    found = [item for item in (report or {}).get("held_out") or [] if isinstance(item, Mapping)]
    labels = ((report or {}).get("confusion") or {}).get("labels") or []
    if kind == "image":
        with_path = [item for item in found if isinstance(item.get("path"), str)]
        unique = {item["path"]: item for item in reversed(with_path)}
        chosen = _in_turn(
            [(_label(item, labels), path) for path, item in reversed(unique.items())], NUM_SAMPLES
        )
        name, version = run.dataset, run.dataset_version
        return [
            {
                "label": label,
                "path": path,
                "thumbnail": thumbnail(name, path, version),
                "file": dataset_file(name, path, version),
            }
            for label, path in chosen
        ]
    if kind == "text":
        texts = [(_label(item, labels), item["text"]) for item in found if isinstance(item.get("text"), str)]
        return [{"label": label, "text": text} for label, text in _in_turn(texts, NUM_TEXTS)]
    return _series(report or {})


def _series(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Series that the report draws: the first line of a chart over time is what was observed."""
    found = []
    for chart in report.get("charts") or []:
        lines = chart.get("series") or []
        if chart.get("kind") == "lines" and lines and lines[0].get("name") in OBSERVED:
            found.append((str(chart.get("title", "")), list(lines[0].get("y") or [])[-NUM_VALUES:]))
    return [{"label": title, "history": history} for title, history in found[:NUM_TEXTS] if len(history) > 1]


def _label(item: Mapping[str, Any], labels: list[Any]) -> str:
    """The label's name; reports may number labels in the order of their confusion matrix."""
    label = item.get("label", item.get("truth", ""))
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(labels):
        return str(labels[label])
    return ", ".join(map(str, label)) if isinstance(label, list) else str(label)


def _in_turn(items: list[tuple[str, Any]], num: int) -> list[tuple[str, Any]]:
    """About `num` of them: each label in turn, and of each label evenly over its list."""
    by_label: dict[str, list[tuple[str, Any]]] = {}
    for label, item in items:
        by_label.setdefault(label, []).append((label, item))
    share = max(1, num // max(1, len(by_label)))
    spread = [
        [group[i * len(group) // share] for i in range(share)] if len(group) > share else group
        for group in by_label.values()
    ]
    mixed = [one for turn in zip_longest(*spread) for one in turn if one is not None]
    return mixed[:num]
