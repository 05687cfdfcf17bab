"""Anomaly detection: an image in; a score, a map and a verdict out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.spec import ImageInput, TaskSpec


@TaskSpec.VARIANTS.add("anomaly-detection")
@dataclass(frozen=True, kw_only=True)
class AnomalyDetection(TaskSpec):
    """`score >= threshold` means `labels[1]`.

    `score_range` is the span of scores seen on held-out data; it scales confidence and heat maps.
    """

    task: Literal["anomaly-detection"] = "anomaly-detection"
    input: ImageInput
    threshold: float
    map_threshold: float
    score_range: tuple[float, float]
    metric: Literal["image_auroc"] = "image_auroc"

    def __post_init__(self) -> None:
        self.require_outputs("score", "map")
        if len(self.labels) != 2:
            raise ValueError(f"labels must be two, [ok, defective], found {list(self.labels)}")
        numbers = (self.threshold, self.map_threshold, *self.score_range)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("thresholds and score_range must be finite")
        if not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"score_range must ascend, found {list(self.score_range)}")
