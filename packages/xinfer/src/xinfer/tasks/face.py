"""Face detection: an image in; faces with five landmarks out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xinfer.tasks.detection import require_fractions
from xinfer.tasks.spec import ImageInput, TaskSpec

LANDMARKS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
"""As seen in the image: left is the image's left."""


@TaskSpec.VARIANTS.add("face-detection")
@dataclass(frozen=True, kw_only=True)
class FaceDetection(TaskSpec):
    """CenterNet-style maps, one place for each `stride` pixels of the network's input.

    `outputs.heatmap` is [N,1,h,w], probabilities of a face's centre; `scale` [N,2,h,w] the logarithm of
    height and width in strides; `offset` [N,2,h,w] of the centre, down and right, in strides; `landmarks`
    [N,10,h,w], five pairs (down, right) from the box's upper left corner in heights and widths.

    Source: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point" (2019), section 3.
    """

    task: Literal["face-detection"] = "face-detection"
    input: ImageInput
    stride: int = 4
    score_threshold: float = 0.5
    iou_threshold: float = 0.3
    labels: tuple[str, ...] = LANDMARKS
    metric: str = "cosine"

    def __post_init__(self) -> None:
        self.require_outputs("heatmap", "scale", "offset", "landmarks")
        require_fractions(score_threshold=self.score_threshold, iou_threshold=self.iou_threshold)
        if len(self.labels) != len(LANDMARKS):
            raise ValueError(f"labels must name the {len(LANDMARKS)} landmarks, found {list(self.labels)}")
        if self.stride < 1:
            raise ValueError(f"stride must be positive, not {self.stride}")
