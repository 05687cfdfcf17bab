"""What the data check of object detection hands on to training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xtorch.data.annotations import Part
from xtorch.data.findings import CheckReport, Finding


@dataclass(frozen=True, kw_only=True)
class UsableImage:
    """An image that training may use.

    Attributes:
        path: relative to the dataset's root.
        width, height: of the upright image in pixels.
        boxes: float64 [M,4], left, top, right, bottom as fractions of width and height.
        labels: int64 [M], into the dataset's labels.
        ignored: bool [M], objects that are neither learned nor counted.
        part: where whoever made the dataset put it; None: ours to decide.
        group: near duplicates share a group; a group never straddles two parts of our split.
    """

    path: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    part: Part | None
    digest: str
    group: int


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Result of the data check: the report for people and what may be used."""

    report: CheckReport
    labels: tuple[str, ...]
    usable: tuple[UsableImage, ...]

    @property
    def errors(self) -> list[Finding]:
        """Findings that block training."""
        return [finding for finding in self.report.findings if finding.severity == "error"]
