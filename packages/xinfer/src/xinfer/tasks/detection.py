"""Object detection: an image in; boxes with labels and scores out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.spec import ImageInput, TaskSpec


@TaskSpec.VARIANTS.add("object-detection")
@dataclass(frozen=True, kw_only=True)
class ObjectDetection(TaskSpec):
    """The one contract of all detectors; anchors, grids and activations stand in the graph.

    `outputs.boxes` is [N,K,4], left, top, right, bottom in pixels of the network's input; `outputs.scores` is
    [N,K,C], the probability of each label. K candidates may overlap: suppression is not in the graph.

    Attributes:
        score_threshold: Candidates below it are dropped.
        class_thresholds: Instead, one for each label; empty: `score_threshold` holds for all.
        iou_threshold: Of two boxes of one label that overlap more, the weaker is dropped.
        max_detections: At most so many are kept, the strongest.
    """

    task: Literal["object-detection"] = "object-detection"
    input: ImageInput
    score_threshold: float = 0.3
    class_thresholds: tuple[float, ...] = ()
    iou_threshold: float = 0.65
    max_detections: int = 100
    metric: str = "ap50"

    def __post_init__(self) -> None:
        self.require_outputs("boxes", "scores")
        require_fractions(score_threshold=self.score_threshold, iou_threshold=self.iou_threshold)
        if self.max_detections < 1:
            raise ValueError(f"max_detections must be positive, not {self.max_detections}")
        if not self.labels:
            raise ValueError("labels must not be empty")
        if self.class_thresholds and len(self.class_thresholds) != len(self.labels):
            raise ValueError(
                f"class_thresholds must be one for each label, not {len(self.class_thresholds)} for "
                f"{len(self.labels)}"
            )
        require_fractions(**{f"class_thresholds[{i}]": v for i, v in enumerate(self.class_thresholds)})


def require_fractions(**values: float) -> None:
    """Raises ValueError unless all are in 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0..1, not {value}")
