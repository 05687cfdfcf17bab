"""Semantic segmentation: an image in, a label for each pixel out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.detection import require_fractions
from xinfer.tasks.spec import ImageInput, TaskSpec


@TaskSpec.VARIANTS.add("semantic-segmentation")
@dataclass(frozen=True, kw_only=True)
class SemanticSegmentation(TaskSpec):
    """`outputs.logits` is [N,C,h,w]; with C = 1 there are two labels and `threshold` tells them apart.

    Attributes:
        values: Whether `outputs.logits` holds logits, or probabilities already.
        threshold: With one channel: from this probability on a pixel is `labels[1]`.
        background: The label that is not drawn; None: all are.
    """

    task: Literal["semantic-segmentation"] = "semantic-segmentation"
    input: ImageInput
    values: Literal["logits", "probabilities"] = "logits"
    threshold: float = 0.5
    background: str | None = None
    metric: str = "mean_iou"

    def __post_init__(self) -> None:
        self.require_outputs("logits")
        require_fractions(threshold=self.threshold)
        if not 2 <= len(self.labels) <= 256:
            raise ValueError(f"labels must be 2 to 256, found {len(self.labels)}")
        if self.background is not None and self.background not in self.labels:
            raise ValueError(f"background {self.background!r} is none of the labels")
