"""Image classification: an image in, one or several of the labels out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.spec import ImageInput, TaskSpec


@TaskSpec.VARIANTS.add("image-classification")
@dataclass(frozen=True, kw_only=True)
class ImageClassification(TaskSpec):
    """`outputs.scores` is [N,C], one column for each label.

    Attributes:
        activation: What makes probabilities of the scores: ``softmax`` (one label fits), ``sigmoid`` (any
            number of labels fit) or ``none`` (they are probabilities).
        threshold: With ``sigmoid``, a label fits from this probability on.
    """

    task: Literal["image-classification"] = "image-classification"
    input: ImageInput
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    threshold: float = 0.5
    metric: str = "top1"

    def __post_init__(self) -> None:
        self.require_outputs("scores")
        if not self.labels:
            raise ValueError("labels must not be empty")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in 0..1, not {self.threshold}")
