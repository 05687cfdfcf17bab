"""What the data check of segmentation hands on to training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xtorch.data.annotations import Part
from xtorch.data.findings import CheckReport, Finding
from xtorch.data.label_masks import MaskLegend


@dataclass(frozen=True, kw_only=True, eq=False)
class UsableImage:
    """An image that training may use.

    Attributes:
        path: Relative to the dataset's root.
        mask: Likewise; None: all of the image is background.
        width, height: Of the upright image in pixels.
        pixels: int64 [K], the mask's pixels of each class.
        part: Where whoever made the dataset put it; None: ours to decide.
        group: Near duplicates share a group; a group never straddles two parts of our split.
    """

    path: str
    mask: str | None
    width: int
    height: int
    pixels: np.ndarray
    part: Part | None
    digest: str
    group: int

    @property
    def labels(self) -> np.ndarray:
        """The classes that it shows, int64."""
        return np.flatnonzero(self.pixels)


@dataclass(frozen=True, kw_only=True)
class SegmentationData:
    """Result of the data check: the report for people and what may be used.

    Attributes:
        labels: Names of the classes, K.
        background: Number of the one that is the background; None: none is.
    """

    report: CheckReport
    labels: tuple[str, ...]
    background: int | None
    legend: MaskLegend
    usable: tuple[UsableImage, ...]

    @property
    def errors(self) -> list[Finding]:
        """Findings that block training."""
        return [finding for finding in self.report.findings if finding.severity == "error"]
