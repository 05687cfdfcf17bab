"""Boxes as they were drawn -> boxes that can be learned from, and what was wrong with them.

Shapes: M objects of one image.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtorch.data.annotations import Annotations, RawBox, RawImage
from xtorch.data.check_detection.files import ImageFile
from xtorch.data.findings import Findings, Severity

INPUT_PX = 416
"""Side of the network's input that tiny objects are judged by."""
TINY_PX = 6
"""An object whose longer side is shorter than this in the network's input can hardly be seen."""
_SAME_PLACE = 0.85
_TOLERANCE_PX = 2.0
"""Boxes may lie outside the image by so much without a word: rounding of annotation tools."""

_FINDINGS: Mapping[str, tuple[Severity, str, str]] = {
    "class.unknown": (
        "warning",
        "{num} object{s} of a class that is not declared",
        "They are left out. Add the class to the list of classes, or correct the objects.",
    ),
    "box.not_finite": (
        "warning",
        "{num} box(es) with numbers that are none",
        "NaN, infinite or missing coordinates: they are left out.",
    ),
    "box.degenerate": (
        "warning",
        "{num} box(es) without an area",
        "Right must be greater than left and bottom greater than top: they are left out.",
    ),
    "box.outside": (
        "warning",
        "{num} box(es) reach outside the image",
        "What lies inside is used. Many of these mean that boxes belong to images of another size.",
    ),
    "box.nothing_inside": (
        "warning",
        "{num} box(es) lie outside the image",
        "They are left out. Many of these mean that boxes belong to images of another size.",
    ),
    "box.duplicate": ("warning", "{num} box(es) drawn twice", "One of each is used."),
    "box.label_conflict": (
        "warning",
        "{num} image{s} where one place has two classes",
        "Two boxes that are nearly the same have different classes. Decide which is right.",
    ),
    "box.tiny": (
        "warning",
        f"{{num}} image{{s}} with objects under {TINY_PX} pixels in the network's input",
        f"Images are scaled to about {INPUT_PX} pixels; such objects can hardly be seen there. Cut images "
        "into tiles, or choose a larger input_size.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class CleanBoxes:
    """Boxes float64 [M,4] as fractions of the upright image, labels int64 [M], ignored bool [M]."""

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


def used_labels(annotations: Annotations, images: Sequence[RawImage], findings: Findings) -> tuple[str, ...]:
    """Classes that have objects: the declared ones in their order, or all by name."""
    used = {box.label for image in images for box in image.boxes if box.known and box.label}
    findings.add(
        "class.unused",
        "info",
        "{num} declared class(es) without an object",
        "They are left out of the model.",
        [label for label in annotations.labels if label not in used],
    )
    if annotations.labels:
        return tuple(label for label in dict.fromkeys(annotations.labels) if label in used)
    return tuple(sorted(used, key=_natural))


def _natural(label: str) -> tuple[Any, ...]:
    """ "class 10" comes after "class 9"."""
    word, _, tail = label.rpartition(" ")
    return (word, int(tail), "") if tail.isdecimal() else (label, -1, "")


class BoxCheck:
    """Cleans the boxes of one image after the other, then reports what it met."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._places = {label: index for index, label in enumerate(labels)}
        self._noted: dict[str, list[str]] = defaultdict(list)

    def clean(self, image: RawImage, file: ImageFile) -> CleanBoxes:
        """The boxes of an image that can be used: of a known class, with an area, inside, once each."""
        rows: list[tuple[tuple[float, float, float, float], int, bool]] = []
        seen: set[tuple[Any, ...]] = set()
        for box in image.boxes:
            if not box.known or box.label not in self._places:
                self._note("class.unknown", image)
                continue
            edges = self._clipped(box, image, file)
            if edges is None:
                continue
            label = self._places[box.label]
            key = (label, *(round(edge, 5) for edge in edges))
            if key in seen:
                self._note("box.duplicate", image)
                continue
            seen.add(key)
            rows.append((edges, label, box.ignored))
        boxes_M4 = np.array([row[0] for row in rows], float).reshape(-1, 4)
        labels_M = np.array([row[1] for row in rows], np.int64)
        if _same_place_other_class(boxes_M4, labels_M):
            self._note("box.label_conflict", image)
        pixels_2 = np.array([file.width, file.height]) * INPUT_PX / max(file.width, file.height)
        sizes_M2 = (boxes_M4[:, 2:] - boxes_M4[:, :2]) * pixels_2
        if len(rows) and (sizes_M2.max(axis=1) < TINY_PX).any():
            self._note("box.tiny", image)
        return CleanBoxes(boxes=boxes_M4, labels=labels_M, ignored=np.array([row[2] for row in rows], bool))

    def report(self, findings: Findings) -> None:
        """What was wrong with the boxes of all images."""
        for code, (severity, title, hint) in _FINDINGS.items():
            findings.add(code, severity, title, hint, self._noted[code])

    def _note(self, code: str, image: RawImage) -> None:
        self._noted[code].append(image.path)

    def _clipped(
        self, box: RawBox, image: RawImage, file: ImageFile
    ) -> tuple[float, float, float, float] | None:
        """What of a box lies in the upright image, as fractions; None: nothing that could be used."""
        if not all(map(math.isfinite, box.edges)):
            self._note("box.not_finite", image)
            return None
        left, top, right, bottom = _upright(box, image, file)
        if right <= left or bottom <= top:
            self._note("box.degenerate", image)
            return None
        slack_x, slack_y = _TOLERANCE_PX / file.width, _TOLERANCE_PX / file.height
        if left < -slack_x or top < -slack_y or right > 1 + slack_x or bottom > 1 + slack_y:
            self._note("box.outside", image)
        clipped = (max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0))
        if clipped[2] - clipped[0] < 1e-6 or clipped[3] - clipped[1] < 1e-6:
            self._note("box.nothing_inside", image)
            return None
        return clipped


_TURNED: Mapping[int, Callable[[float, float], tuple[float, float]]] = {
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
"""EXIF orientation -> where a point of the stored image, as fractions, lies in the upright one."""


def _upright(box: RawBox, image: RawImage, file: ImageFile) -> tuple[float, float, float, float]:
    """Edges as fractions of the upright image."""
    stored = (file.facts.width, file.facts.height)
    # Only where width and height change places does the declared size tell how the boxes were drawn.
    as_stored = file.orientation in _TURNED and image.declared_size == stored != (file.width, file.height)
    width, height = stored if as_stored else (file.width, file.height)
    left, top, right, bottom = box.edges
    if not box.fractions:
        left, top, right, bottom = left / width, top / height, right / width, bottom / height
    # A box whose edges are in the wrong order must stay recognisable as such.
    if not as_stored or right <= left or bottom <= top:
        return left, top, right, bottom
    corners = [_TURNED[file.orientation](x, y) for x in (left, right) for y in (top, bottom)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _same_place_other_class(boxes_M4: np.ndarray, labels_M: np.ndarray) -> bool:
    if len(labels_M) < 2:
        return False
    low = np.maximum(boxes_M4[:, None, :2], boxes_M4[None, :, :2])
    both = (np.minimum(boxes_M4[:, None, 2:], boxes_M4[None, :, 2:]) - low).clip(0).prod(axis=2)
    area = (boxes_M4[:, 2:] - boxes_M4[:, :2]).prod(axis=1)
    overlap = both / np.maximum(area[:, None] + area[None] - both, 1e-12)
    return bool(((overlap >= _SAME_PLACE) & (labels_M[:, None] != labels_M[None])).any())
