"""Reading text in images: where it stands, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.detection import require_fractions
from xinfer.tasks.spec import ImageInput, TaskSpec


@TaskSpec.VARIANTS.add("text-detection")
@dataclass(frozen=True, kw_only=True)
class TextDetection(TaskSpec):
    """`outputs.map` is [N,1,h,w], the probability of (shrunken) text at each pixel.

    Attributes:
        threshold: Pixels from this probability on belong to text.
        box_threshold: Boxes with a lower mean probability are dropped.
        unclip_ratio: How far boxes are grown back: by area x ratio / perimeter.

    Source: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (AAAI 2020),
    section "Label generation" and "Inference".
    """

    task: Literal["text-detection"] = "text-detection"
    input: ImageInput
    threshold: float = 0.3
    box_threshold: float = 0.5
    unclip_ratio: float = 1.6
    max_boxes: int = 1000
    metric: str = "cosine"

    def __post_init__(self) -> None:
        self.require_outputs("map")
        require_fractions(threshold=self.threshold, box_threshold=self.box_threshold)
        if self.unclip_ratio < 0 or self.max_boxes < 1:
            raise ValueError("unclip_ratio must not be negative, max_boxes must be positive")


@TaskSpec.VARIANTS.add("text-recognition")
@dataclass(frozen=True, kw_only=True)
class TextRecognition(TaskSpec):
    """`outputs.probabilities` is [N,T,C]: for each of T steps the probability of each of `labels`.

    `labels[0]` is CTC's blank. Images of one line of text are scaled to the height of `input.size`; its width
    is the least one, wider lines take multiples of `width_step`.
    """

    task: Literal["text-recognition"] = "text-recognition"
    input: ImageInput
    width_step: int = 160
    max_width: int = 3200
    metric: str = "cosine"

    def __post_init__(self) -> None:
        self.require_outputs("probabilities")
        if self.input.size is None:
            raise ValueError("input.size must say the lines' height")
        if len(self.labels) < 2 or self.width_step < 1 or self.max_width < self.input.size[1]:
            raise ValueError("labels, width_step or max_width are out of range")
